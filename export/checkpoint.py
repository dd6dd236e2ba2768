"""A checkpoint on disk to a published bundle."""

from pathlib import Path

from contract.manifest import Precision, Provenance
from contract.mmctr import read_items
from contract.store import Store
from export.exporter import MAX_AUC_LOSS, TrainedModel, export_model
from training.checkpoint import load_checkpoint


def export_checkpoint(
    checkpoint: Path,
    items: Path,
    store: Store | Path,
    model: str = "qin",
    *,
    fold_weights: bool = True,
    split_first_layer: bool = True,
    precision: Precision = "float32",
    validation: Path | None = None,
    max_auc_loss: float = MAX_AUC_LOSS,
) -> Path:
    """Publish the checkpoint in a folder, with golden rows from an `item_info` file; see `export_model`.

    Raises
    ------
    CheckpointError, MmctrError, DataError, ExportError
        The checkpoint, the items or the validation rows cannot be read, or do not fit each other, or the precision
        costs too much.
    ParityError
        The bundle does not score as the model does: nothing is published.
    BundleError
        The store does not take it.
    """
    loaded = load_checkpoint(checkpoint)
    info = loaded.info
    provenance = Provenance(
        recipe=info.recipe, data_fingerprint=info.data_fingerprint, auc=info.auc, log_loss=info.log_loss
    )
    trained = TrainedModel(loaded.model, loaded.vocabulary, provenance)
    return export_model(
        trained,
        read_items(items),
        store,
        model,
        fold_weights=fold_weights,
        split_first_layer=split_first_layer,
        precision=precision,
        validation=validation,
        max_auc_loss=max_auc_loss,
    )
