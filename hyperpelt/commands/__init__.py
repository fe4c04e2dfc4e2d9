"""The commands of `hyperpelt`, one module a verb. Heavy imports stand inside the functions: help must be quick."""
