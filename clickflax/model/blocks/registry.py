"""The blocks by their values of `config.model.block`."""

from clickflax.batch import Registry
from clickflax.model.blocks.base import EncoderBlock
from clickflax.model.blocks.gru import GRUBlock
from clickflax.model.blocks.hstu import HSTUBlock
from clickflax.model.blocks.transformer import TransformerBlock

BLOCKS: Registry[type[EncoderBlock]] = Registry(
    "block", {"transformer": TransformerBlock, "hstu": HSTUBlock, "gru": GRUBlock}
)
