"""An accelerator that this machine need not have: tensors live in the CPU's memory, marked, and refuse to be mixed as CUDA's do.

    with FakeAccelerator() as device:      # torch.device("cuda:0")
        pipeline.to(device)

Every function of torch passes through `__torch_function__`. The mark is on the storage, so that views and parameters have it, too.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE, CPU, META = torch.device("cuda:0"), torch.device("cpu"), torch.device("meta")
MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
# What CUDA's tensors, too, do across devices.
CROSSING = {torch.Tensor.copy_, torch.Tensor.__setitem__, torch.Tensor.__getitem__, torch.Tensor.data.__set__, torch.Tensor.grad.__get__,
            torch._has_compatible_shallow_copy_type, torch.Tensor.type_as}


def _is_device(value: object) -> bool:
    return isinstance(value, (torch.device, str)) and str(value).split(":")[0] in ("cuda", "cpu", "meta")


class FakeAccelerator(TorchFunctionMode):
    """While it is entered, "cuda" is such a device; `.on(tensor)` tells where a tensor is."""

    def __enter__(self) -> torch.device:
        super().__enter__()
        return DEVICE

    @staticmethod
    def on(tensor: torch.Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            if tensor.device.type == "meta":
                return META
            if tensor.layout != torch.strided:  # oneDNN's own, which is the CPU's
                return CPU
            return DEVICE if getattr(tensor.untyped_storage(), "on_accelerator", False) else CPU

    @staticmethod
    def _mark(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        with torch._C.DisableTorchFunction():
            if tensor.device.type != "meta" and tensor.layout == torch.strided:
                tensor.untyped_storage().on_accelerator = device.type == "cuda"
        return tensor

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        if function is torch._C._nn._parse_to:  # what `module.to` asks, with the names of devices
            return function(*arguments, **options)
        if function == torch.Tensor.device.__get__:  # a new object at every access
            return self.on(arguments[0])
        if function is torch.Tensor.__deepcopy__:  # which brings a memo of everything copied so far
            return self._mark(function(*arguments), self.on(arguments[0]))
        tensors = [value for value in tree_flatten((arguments, options))[0] if isinstance(value, torch.Tensor)]
        places = [self.on(tensor) for tensor in tensors if tensor.ndim or tensor is tensors[0]]
        devices = [value for value in tree_flatten((arguments, options))[0] if _is_device(value)]
        target = torch.device(devices[0]) if devices else None
        if function in MOVES:
            return self._move(function, arguments, options, target)
        if function is torch.Tensor.numpy and places[0] != CPU:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if function not in CROSSING and len(set(places)) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {set(map(str, places))} in {function.__name__}")
        if target is not None and target.type == "cuda":
            arguments, options = tree_map(lambda value: CPU if _is_device(value) else value, (arguments, options))
        result = function(*arguments, **options)
        place = target or (places[0] if places else CPU)
        if function != torch.Tensor.data.__set__ and place.type != "meta":
            known = {id(tensor) for tensor in tensors}
            for made in tree_flatten(result)[0]:
                if isinstance(made, torch.Tensor) and id(made) not in known:
                    self._mark(made, place)
        return result

    def _move(self, function, arguments, options, target):
        source, *rest = arguments
        if function is torch.Tensor.cpu:
            target = CPU
        elif function is torch.Tensor.cuda:
            target = DEVICE
        elif rest and isinstance(rest[0], torch.Tensor):
            target = self.on(rest[0])
        if target is not None and target.type == "meta":
            return function(*arguments, **options)
        before = self.on(source)
        if before == META:
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        after = before if target is None else (DEVICE if target.type == "cuda" else CPU)
        rest, options = tree_map(lambda value: CPU if _is_device(value) else value, (list(rest), options))
        with torch._C.DisableTorchFunction():
            moved = source.to(*rest, **options) if function is torch.Tensor.to else source
            if moved is source and after == before:
                return source
            if moved.untyped_storage().data_ptr() == source.untyped_storage().data_ptr():
                moved = moved.clone()
        return self._mark(moved, after)
