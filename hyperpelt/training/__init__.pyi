from .callbacks import Callback, Evaluation
from .run import train
