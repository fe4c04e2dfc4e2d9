from .settings import RunConfig, build_run, keys, load_run, to_yaml
