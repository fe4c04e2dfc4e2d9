"""The courses of methods, one subject a file; `hyperpelt.methods.course` says what a course is.

budget (ranks taken away), drawing (one of many, anew in each step), farthest (a share stays), sensitivity (what is
trained, and where), pruning (how a side network starts).
"""
