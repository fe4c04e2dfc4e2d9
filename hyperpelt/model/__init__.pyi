from .outputs import TunedOutput
from .tuned import TunedModel
