"""What the golden scripts share: values by a formula, LoRA by hooks, training as torch does it.

The Rust tests compute the same formulas (`tests/parity/mod.rs`), so no random generator is shared.
"""

import torch


def spread(shape, tensor, centre=0.0, size=0.5):
    """`centre + size * h`, h in [-1, 1) from the entry's and the tensor's number, as f32."""
    n = torch.Size(shape).numel()
    i = torch.arange(1, n + 1, dtype=torch.float64)
    h = torch.sin(i * 12.9898 + tensor * 78.233) * 43758.5453
    h = 2 * (h - torch.floor(h)) - 1
    return (centre + size * h).to(torch.float32).to(torch.float64).reshape(shape)


def sizes(module):
    """In and out of a linear or a transformers Conv1D, whose weight is the other way round."""
    a, b = module.weight.shape
    return (a, b) if type(module).__name__ == "Conv1D" else (b, a)


def adapt(model, paths, rank, alpha, size):
    """LoRA on the linears at `paths` by forward hooks; the factors by the layout's names, in its order."""
    factors = {}
    for path in paths:
        linear = model.get_submodule(path)
        d_in, d_out = sizes(linear)
        a = spread((rank, d_in), 1000 + len(factors), size=size).requires_grad_()
        factors[f"{path}.lora_A"] = a
        b = spread((d_out, rank), 1000 + len(factors), size=size).requires_grad_()
        factors[f"{path}.lora_B"] = b

        def hook(module, inputs, output, a=a, b=b):
            return output + alpha / rank * (inputs[0] @ a.T @ b.T)

        linear.register_forward_hook(hook)
    return factors


def summary(x):
    """Norm, a weighted sum that any entry changes, and the first entries."""
    x = x.detach().flatten()
    weights = torch.cos(torch.arange(len(x), dtype=torch.float64))
    return {"norm": x.norm().item(), "sum": (x * weights).sum().item(), "first": x[:3].tolist()}


def next_tokens(model, batch):
    """Logits and the mean loss over targets that are not -100."""
    inputs, targets = (torch.tensor(x) for x in batch)
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100
    )
    return logits, loss


def run(parameters, step, steps, lr):
    """The first batch's logits, loss and gradients; then AdamW, one step a batch."""
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=lr, weight_decay=0.1)
    out = {"lr": lr, "losses": []}
    for at in range(steps):
        optimizer.zero_grad()
        logits, loss = step(at)
        loss.backward()
        if at == 0:
            out["logits"] = [summary(row) for row in logits.flatten(0, -2)]
            out["gradients"] = {name: summary(x.grad) for name, x in parameters.items()}
        out["losses"].append(loss.item())
        optimizer.step()
    out["after"] = {name: summary(x) for name, x in parameters.items()}
    return out


def shorten(x):
    """Nine significant digits are more than f32 has."""
    if isinstance(x, float):
        return float(f"{x:.9g}")
    if isinstance(x, dict):
        return {k: shorten(v) for k, v in x.items()}
    return [shorten(v) for v in x] if isinstance(x, list) else x
