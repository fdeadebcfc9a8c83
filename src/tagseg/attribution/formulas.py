"""From activations and gradients to a map: one pure function per published method.

Every function takes the activation `A (B, D, h, w)` of a layer and the gradient `g` of a class score with respect to
it, of the same shape, and returns the map `(B, h, w)`, float32, unnormalised. Scores are taken before the softmax.
Shapes: B images, D channels, h x w the layer's grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Formula = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def grad_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2): a channel's weight is its mean gradient."""
    return _weighted(activation, gradient.float().mean(dim=(2, 3))).relu_()


def grad_cam_plus_plus(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes Grad-CAM++ (Chattopadhay et al., WACV 2018, equations 10 to 13 and 19).

    The weight of a channel is the sum of `alpha * ReLU(g)`, `alpha = g^2 / (2 g^2 + S g^3)`, where g is the gradient
    and S the sum of the channel's activation. Only positive gradients count, and there `alpha * g = g / (2 + S g)`:
    nothing has to be added to a denominator. (Activations that can be negative could make it vanish; S is not let below
    zero.)
    """

    def weights(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        g = g.clamp_min(0)
        total = a.sum(dim=(2, 3), keepdim=True).clamp_min(0)
        return (g / (2 + total * g)).sum(dim=(2, 3))

    return _weighted(activation, _by_image(weights, activation, gradient)).relu_()


def grad_cam_plus_plus_official(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes Grad-CAM++ as public packages do: 1e-6 is added to the denominator of alpha.

    Gradients much below 1e-3 then get almost no weight, so the map depends on the scale of the scores.
    """

    def weights(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        total = a.sum(dim=(2, 3), keepdim=True)
        alpha = g.square() / (2 * g.square() + total * g.pow(3) + 1e-6)
        return torch.where(g == 0, 0, alpha * g.clamp_min(0)).sum(dim=(2, 3))

    return _weighted(activation, _by_image(weights, activation, gradient)).relu_()


def layer_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes LayerCAM (Jiang et al., TIP 2021, equations 5 to 7).

    Every position of a channel has its own weight, the ReLU of its gradient.
    """
    return _by_image(lambda a, g: (g.clamp_min(0) * a).sum(dim=1), activation, gradient).relu_()


def layer_cam_normal(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes LayerCAM's ablation ("LayerCAM-normal"): the gradient itself is the weight, without the ReLU."""
    return _by_image(lambda a, g: (g * a).sum(dim=1), activation, gradient).relu_()


def xgrad_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes XGrad-CAM (Fu et al., BMVC 2020).

    The weight of a channel is the mean of its gradients, each counted by the activation's share of the channel.
    """

    def weights(a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        total = a.sum(dim=(2, 3))
        return torch.where(total == 0, 0, (g * a).sum(dim=(2, 3)) / torch.where(total == 0, 1, total))

    return _weighted(activation, _by_image(weights, activation, gradient)).relu_()


def eigen_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes Eigen-CAM (Muhammad and Yeasin, IJCNN 2020): the activation along its first right singular vector.

    It is the same for every class and uses no gradient. A singular vector has no sign: it gets that of the mean
    activation.
    """
    del gradient
    flat = activation.float().flatten(2).transpose(1, 2)  # (B, h w, D)
    if flat.shape[1] < flat.shape[2]:  # the smaller of the two products has the same singular values
        values, vectors = torch.linalg.eigh(flat @ flat.transpose(1, 2))  # ascending
        along = vectors[:, :, -1] * values[:, -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(flat.transpose(1, 2) @ flat)
        along = (flat @ vectors[:, :, -1:])[..., 0]
    along = along * torch.where(along.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    return along.unflatten(1, activation.shape[2:]).relu_()


def norm_grad(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Computes NormGrad (Rebuffi et al., CVPR 2020, "scaling").

    The map is the Frobenius norm of the outer product of the activation A and the gradient g. At a position that is the
    norm of A over its channels times the norm of g over its channels.
    """
    return _by_image(lambda a, g: a.norm(dim=1) * g.norm(dim=1), activation, gradient)


FORMULAS: dict[str, Formula] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "layercam": layer_cam,
    "layercam-normal": layer_cam_normal,
    "hirescam": layer_cam_normal,  # Draelos and Carin 2020: the same map
    "xgradcam": xgrad_cam,
    "eigencam": eigen_cam,
    "normgrad": norm_grad,
}  # by the names that the command line uses; they share a backward pass


def _weighted(activation: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over channels of `weights (B, D)` times the channel."""
    return torch.stack([torch.tensordot(w, a.float(), dims=1) for w, a in zip(weights, activation, strict=True)])


def _by_image(formula: Formula, activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """`formula` in float32, on a CPU one image at a time, whose temporaries then stay in its caches."""
    if activation.device.type != "cpu":
        return formula(activation.float(), gradient.float())
    pairs = zip(activation.split(1), gradient.split(1), strict=True)
    return torch.cat([formula(a.float(), g.float()) for a, g in pairs])
