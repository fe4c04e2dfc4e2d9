from .plan import Plan, plan_run
from .step import Shape, StepCosts, measure
