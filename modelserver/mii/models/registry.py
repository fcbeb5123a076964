"""Which architecture is which family."""

from mii.errors import UnsupportedModel
from mii.models import families
from mii.models.description import Description, Names
from mii.models.families import Config, Family

ARCHITECTURES: dict[str, Family] = {
    "FalconForCausalLM": families.falcon,
    "LlamaForCausalLM": families.llama,
    "MistralForCausalLM": families.mistral,
    "MixtralForCausalLM": families.mixtral,
    "OPTForCausalLM": families.opt,
    "Phi3ForCausalLM": families.phi3,
    "PhiForCausalLM": families.phi,
    "Qwen2ForCausalLM": families.qwen2,
    "Qwen2MoeForCausalLM": families.qwen2_moe,
    "Qwen3ForCausalLM": families.qwen3,
    "Qwen3MoeForCausalLM": families.qwen3_moe,
}


def describe(config: Config) -> tuple[Description, Names]:
    """From a config.json. Raises UnsupportedModel if no architecture that it names is known."""
    asked = config.get("architectures") or []
    for architecture in asked:
        if architecture in ARCHITECTURES:
            return ARCHITECTURES[architecture](config)
    known = ", ".join(sorted(ARCHITECTURES))
    raise UnsupportedModel(f"config.json: architectures {asked} are not supported; supported are {known}")
