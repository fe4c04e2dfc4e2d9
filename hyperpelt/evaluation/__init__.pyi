from .prediction import predict
from .results import Results, TaskResult
from .run import check_lengths, evaluate
