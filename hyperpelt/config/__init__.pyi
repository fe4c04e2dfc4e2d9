from .runs import build_run, keys, load_run, to_yaml
from .settings import RunConfig
