import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qsmflow.core.crop import bounding_box
from qsmflow.core.dipole import DipoleConvolution
from qsmflow.core.inversion.objective import MorphologyObjective, edge_free
from qsmflow.core.inversion.result import Inversion
from qsmflow.core.solvers import conjugate_gradient
from qsmflow.core.weights import noise_weights
