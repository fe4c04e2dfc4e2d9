from . import (
    attachment,
    backbones,
    cli,
    commands,
    config,
    data,
    errors,
    evaluation,
    export,
    methods,
    metrics,
    model,
    operations,
    planning,
    report,
    tasks,
    training,
    tuners,
    vision,
    weights,
)
from .backbones import load_backbone
from .commands.serving import predict
from .data import Collator, MixedRows
from .errors import UserError
from .evaluation import evaluate
from .export import from_peft
from .methods import Method, Part
from .metrics import vqa_scores
from .model import TunedModel
from .tasks import (
    Example,
    Files,
    Generator,
    Hub,
    ImageFolder,
    Loaded,
    Mixture,
    Saved,
    Splits,
    Stream,
    Streamed,
    Task,
    check_task,
    register,
    task,
)
from .training import Callback, train
from .transfer import transfer
from .vision import FeatureStore, load_image_encoder

__version__: str
