"""PyTorch on the CPU: a network trained for some steps; network, optimiser and data are kept."""

import time

import torch

torch.manual_seed(1)
data, target = torch.randn(60_000, 512), torch.randint(0, 10, (60_000,))
network = torch.nn.Sequential(
    torch.nn.Linear(512, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 10)
)
optimiser = torch.optim.Adam(network.parameters())
for step in range(4):
    chosen = slice(step * 2048, (step + 1) * 2048)
    loss = torch.nn.functional.cross_entropy(network(data[chosen]), target[chosen])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
as_numpy = data.numpy()
time.sleep(2)  # what is idle is given back meanwhile
