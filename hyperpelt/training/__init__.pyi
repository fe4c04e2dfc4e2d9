from .run import train
