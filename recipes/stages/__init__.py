"""A chain of stages run as one, resumed as one."""
