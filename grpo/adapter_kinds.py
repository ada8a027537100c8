"""The kinds of peft that are not weights: sampled from in process alone, or not at all."""

# They learn vectors that stand before the prompt.
PROMPTED = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT")
NOT_BY_VLLM = (
    "learns vectors that stand before the prompt, not weights: there is nothing to merge, and vLLM serves no adapter "
    "but LoRA, so samples would come from another policy than the one that is trained; use rollout.engine: "
    "transformers, model.lora, or IA3"
)
# Why a kind cannot work here; said when the recipe is read.
REFUSED = {
    "MULTITASK_PROMPT_TUNING": "asks for each sample's task by number, which no problem has; use PROMPT_TUNING",
    "ADALORA": "moves ranks between layers by calls that this training loop does not make; use LORA",
    "XLORA": "mixes adapters that were trained before, depending on the input: it does not merge; use LORA",
}
