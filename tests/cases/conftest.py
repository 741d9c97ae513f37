import torch

# Small tensors only: on a busy machine a second thread costs far more than it brings.
torch.set_num_threads(1)
