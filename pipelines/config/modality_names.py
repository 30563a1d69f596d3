"""What a modality may be called: a name that can stand in Python, and is none of what torch's containers have."""

from clx.pipelines.system.errors import BadInput

TAKEN = {
    *("T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear"),
    *("compile", "cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward", "get_buffer"),
    *("get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys", "load_state_dict"),
    *("modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters"),
    *("pop", "register_backward_hook", "register_buffer", "register_forward_hook", "register_forward_pre_hook"),
    *("register_full_backward_hook", "register_full_backward_pre_hook", "register_load_state_dict_post_hook"),
    *("register_load_state_dict_pre_hook", "register_module", "register_parameter"),
    *("register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_", "set_extra_state"),
    *("set_submodule", "share_memory", "smart_apply", "state_dict", "to", "to_empty", "train", "training", "type"),
    *("update", "values", "xpu", "zero_grad"),
}
"""Attributes of `torch.nn.ModuleDict`, written out since a config is read without torch.

`smart_apply` is none of torch's: transformers gives it to every module once one of its models was built.
"""


def check_name(name: str) -> None:
    """Raise `BadInput` for a name that no modality can have."""
    if not name.isidentifier():
        raise BadInput(f"modalities.{name}: a name must be letters, digits and underscores")
    if name in TAKEN:
        raise BadInput(f"modalities.{name}: torch calls a part of its own so; another name, such as {name}_input")
