"""A checkpoint on disk to a published bundle."""

from pathlib import Path

from contract.manifest import Provenance
from contract.mmctr import read_items
from export.exporter import TrainedModel, export_model
from training.checkpoint import load_checkpoint


def export_checkpoint(
    checkpoint: Path,
    items: Path,
    store: Path,
    model: str = "qin",
    *,
    fold_weights: bool = True,
    split_first_layer: bool = True,
) -> Path:
    """Publish the checkpoint in a folder, with golden rows from an `item_info` file; see `export_model`.

    Raises
    ------
    CheckpointError, MmctrError, ExportError
        The checkpoint or the items cannot be read, or do not fit each other.
    ParityError
        The bundle does not score as the model does: nothing is published.
    """
    loaded = load_checkpoint(checkpoint)
    info = loaded.info
    provenance = Provenance(
        recipe=info.recipe, data_fingerprint=info.data_fingerprint, auc=info.auc, log_loss=info.log_loss
    )
    trained = TrainedModel(loaded.model, loaded.vocabulary, provenance)
    return export_model(
        trained, read_items(items), store, model, fold_weights=fold_weights, split_first_layer=split_first_layer
    )
