"""The kinds of peft."""

# Kinds of peft that cannot work here, and why: said when the recipe is read.
_PROMPTED = (
    "learns vectors that stand before the prompt, not weights: there is nothing to merge, and vLLM serves no adapter "
    "but LoRA, so samples would come from another policy than the one that is trained; use model.lora, or IA3"
)
NOT_SERVED = {
    **dict.fromkeys(("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"), _PROMPTED),
    **dict.fromkeys(("CARTRIDGE", "ADAPTION_PROMPT"), _PROMPTED),
    "ADALORA": "moves ranks between layers by calls that this training loop does not make; use LORA",
    "XLORA": "mixes adapters that were trained before, depending on the input: it does not merge; use LORA",
}
