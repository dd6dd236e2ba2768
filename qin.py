"""The `qin` command line: each command imports its room only when it is called."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="qin",
    help="Train, export and serve QIN, the Quadratic Interest Network for click-through prediction.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

Data = Annotated[Path, typer.Option(help="A folder with train.parquet, valid.parquet and item_info.parquet.")]
Rows = Annotated[Path, typer.Option(help="A clicks file in the MM-CTR layout.")]
Items = Annotated[Path, typer.Option(help="An item_info.parquet.")]
Store = Annotated[
    str, typer.Option(help="The folder of published models, or a URL such as s3://bucket/models.", envvar="QIN_STORE")
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Where copies from a store at a URL are kept; by default in the user's cache.", envvar="QIN_CACHE_DIR"
    ),
]
Model = Annotated[str, typer.Option(help="Name of the model.", envvar="QIN_MODEL")]
Redis = Annotated[
    str | None, typer.Option(help="Redis URL; the embedded Valkey where none is given.", envvar="QIN_REDIS_URL")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the embedded Valkey; by default in the user's data folder.", envvar="QIN_DATA_DIR"),
]
Url = Annotated[str, typer.Option(help="Where the service listens.", envvar="QIN_URL")]
InUseAt = Annotated[
    str | None, typer.Option("--url", help="A service: what it uses is not deleted.", envvar="QIN_URL")
]
AdminKey = Annotated[str | None, typer.Option(help="Admin key, if the service has one.", envvar="QIN_ADMIN_KEY")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(version("qin-ranker"))
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, export and serve QIN, the Quadratic Interest Network for click-through prediction."""


@app.command(epilog="Example: `qin prepare --events clicks.csv --items catalogue.jsonl --out data`")
def prepare(
    events: Annotated[list[Path], typer.Option(help="Log of user_id, item_id, time and, if it has one, label.")],
    items: Annotated[Path, typer.Option(help="Catalogue of item_id, title, description, tags, image.")],
    out_dir: Annotated[Path, typer.Option("--out", help="The new folder to train on.")],
    impressions: Annotated[list[Path] | None, typer.Option(help="Log of what was shown, clicked or not.")] = None,
    served: Annotated[
        list[Path] | None, typer.Option(help="Request log of the service: its folder, or files of it.")
    ] = None,
    preparation: Annotated[
        Path | None, typer.Option(help="An earlier preparation whose ids, tags and encoders go on.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Call a column otherwise: user=viewer.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Numbers in an item's embedding.")] = None,
    negatives: Annotated[int | None, typer.Option(help="Rows without a click for each click.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change one setting: key=value.")] = None,
) -> None:
    """Turn event logs and a catalogue, in parquet, CSV or JSON lines, into a folder to train on."""
    from preparation.assembly import Sources
    from preparation.fitted import load_fitted
    from preparation.prepare import describe
    from preparation.prepare import prepare as run
    from preparation.settings import make_settings

    before = None if preparation is None else load_fitted(preparation).settings
    chosen = make_settings(columns or [], settings or [], before, width=width, num_negatives=negatives)
    sources = Sources(events, items, impressions or [], served or [])
    out.print(describe(run(sources, out_dir, chosen, preparation, err)))


@app.command(epilog="Example: `qin prepare-item --preparation data/preparation --item item.json`")
def prepare_item(
    preparation: Annotated[Path, typer.Option(help="The folder that prepare left in its output.")],
    item: Annotated[Path, typer.Option(help="An item as JSON by the catalogue's columns; .jsonl: one a line.")],
) -> None:
    """Print an item as `PUT /v1/items/{id}` takes it, prepared as the catalogue was."""
    import msgspec

    from preparation.fitted import load_fitted
    from preparation.item import prepare_item as run
    from preparation.item import read_rows

    fitted = load_fitted(preparation)
    for row in read_rows(item):
        prepared, remark = run(fitted, preparation, row, item.parent)
        if remark:
            err.print(remark, highlight=False)
        print(msgspec.json.encode(prepared).decode())  # noqa: T201


@app.command(epilog="Example: `qin train --data data/ --out runs/first --recipe tiny --set epochs=3`")
def train(
    data: Data,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the checkpoint goes.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper, microlens_50k, impressions or tiny; impressions, or that of --from.", show_default=False
        ),
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Change one setting: key=value.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted run stopped.")] = False,
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where large clicks are kept, mapped rather than read; by default in the user's cache.",
            envvar="QIN_CACHE_DIR",
        ),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint to go on from, grown by new items and tags.")
    ] = None,
) -> None:
    """Train a model on clicks; by several processes where torchrun starts it (docs/training.md)."""
    from contract.files import default_cache
    from training.grow import recipe_for
    from training.ranks import is_first_process
    from training.recipes import with_settings
    from training.trainer import train as run

    chosen = with_settings(recipe_for(recipe, start), settings or [])
    try:
        summary = run(
            data, out_dir, chosen, resume=resume, console=err, start=start, cache=cache_dir or default_cache()
        )
    except KeyboardInterrupt:
        err.print("interrupted; whole epochs are kept: go on with the same command and --resume")
        sys.exit(130)
    if is_first_process():
        out.print(f"AUC {summary.auc:.6f}, log loss {summary.log_loss:.6f}, checkpoint and report.html in {out_dir}")


@app.command("check-data", epilog="Example: `qin check-data --data data`")
def check_data(
    data: Data,
    history_length: Annotated[int, typer.Option(help="Items of a history that count.", min=1, max=4096)] = 64,
) -> None:
    """Print what is wrong with data, or noteworthy, before training; status 1 where anything is an error."""
    from training.checks import examine, table

    found = examine(data, history_length)
    out.print(table(found))
    sys.exit(any(finding.kind == "error" for finding in found))


@app.command(epilog="Example: `qin report --checkpoint runs/first --data data`")
def report(
    checkpoint: Annotated[Path, typer.Option(help="A folder that train or import wrote.")],
    data: Data,
) -> None:
    """Write a page about a checkpoint: curves, calibration, AUC by history, user, item and levels."""
    from training.report import write_report

    out.print(f"report in {write_report(checkpoint, data)}", highlight=False)


@app.command("import", epilog="Example: `qin import QIN.model --feature-map feature_map.json --out runs/published`")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A state dict as FuxiCTR saves it.")],
    feature_map: Annotated[Path, typer.Option(help="The feature_map.json beside it.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Where the checkpoint goes.")],
    history_length: Annotated[int, typer.Option(help="Items of a history that count; not in the checkpoint.")] = 64,
) -> None:
    """Turn the authors' published checkpoint into one of ours."""
    from training.fuxictr import import_checkpoint

    import_checkpoint(checkpoint, feature_map, out_dir, history_length=history_length)
    out.print(f"checkpoint in {out_dir}")


@app.command(
    epilog="Example: `qin evaluate --checkpoint runs/first --data data/valid.parquet --items data/item_info.parquet`"
)
def evaluate(
    data: Rows,
    items: Items,
    checkpoint: Annotated[Path | None, typer.Option(help="Score with torch.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Score with ONNX Runtime, as served.")] = None,
    scores_file: Annotated[Path | None, typer.Option("--out", help="Write one float32 per row (.npy).")] = None,
) -> None:
    """Print AUC and log loss of a checkpoint or a bundle, and write its scores."""
    if (checkpoint is None) == (bundle is None):
        raise typer.BadParameter("give either --checkpoint or --bundle")
    from training.metrics import check_writable, describe, save_scores

    if scores_file is not None:
        check_writable(scores_file)
    if checkpoint is not None:
        from training.evaluate import score_checkpoint

        scores, labels = score_checkpoint(checkpoint, data, items)
    else:
        from scoring.evaluate import score_bundle

        assert bundle is not None
        scores, labels = score_bundle(bundle, data, items)

    out.print(describe(scores, labels))
    if scores_file is not None:
        save_scores(scores_file, scores)


@app.command(epilog="Example: `qin export --checkpoint runs/first --items data/item_info.parquet --store store`")
def export(
    checkpoint: Annotated[Path, typer.Option(help="A folder that train or import wrote.")],
    items: Items,
    store: Store,
    model: Model = "qin",
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="--no-fold: the model as published.")] = True,
    split: Annotated[bool, typer.Option("--split/--no-split", help="--no-split: smaller tables, slower.")] = True,
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"],
        typer.Option(help="Of the quadratic layers; below float32 it takes --validation."),
    ] = "float32",
    validation: Annotated[
        Path | None, typer.Option(help="Clicks with labels that tell what the precision costs.")
    ] = None,
    max_auc_loss: Annotated[
        float, typer.Option(help="Publish nothing that loses more AUC than this to float32.")
    ] = 1e-4,
    cache_dir: CacheDir = None,
    keep: Annotated[
        int | None, typer.Option(help="Then delete all versions but the newest so many; see prune.", min=1)
    ] = None,
    url: InUseAt = None,
    key: AdminKey = None,
) -> None:
    """Publish a checkpoint as a bundle and print its version."""
    from contract.bundle import read_manifest
    from contract.store import open_store
    from export.checkpoint import export_checkpoint
    from export.measure import describe

    bundle = export_checkpoint(
        checkpoint,
        items,
        open_store(store, cache_dir),
        model,
        fold_weights=fold,
        split_first_layer=split,
        precision=precision,
        validation=validation,
        max_auc_loss=max_auc_loss,
    )
    measured = read_manifest(bundle).measured
    if measured is not None:
        err.print(describe(measured))
    print(bundle.name)  # noqa: T201
    if keep is not None:
        _prune(store, cache_dir, model, keep, url, key, err)


@app.command(epilog="Example: `qin prune --store store --keep 5 --url http://127.0.0.1:8000`")
def prune(
    store: Store,
    keep: Annotated[int, typer.Option(help="The newest versions that stay in any case.", min=1)],
    model: Model = "qin",
    url: InUseAt = None,
    key: AdminKey = None,
    cache_dir: CacheDir = None,
) -> None:
    """Delete all versions but the newest, and with --url all but those that the service uses too."""
    if not _prune(store, cache_dir, model, keep, url, key, out):
        err.print("nothing to delete")


def _prune(
    store: str, cache_dir: Path | None, model: str, keep: int, url: str | None, key: str | None, console: Console
) -> bool:
    """Delete, say what, and return whether there was anything."""
    from contract.client import Client
    from contract.pruning import prune as run
    from contract.pruning import versions_in_use
    from contract.store import open_store

    needed: frozenset[str] = frozenset()
    if url is not None:
        with Client(url, key) as client:
            needed = versions_in_use(client.model(model))
    pruned = run(open_store(store, cache_dir), model, keep, needed)
    for what, names in (("deleted", pruned.removed), ("leftovers deleted", pruned.leftovers)):
        if names:
            console.print(f"{what}: {', '.join(names)}", highlight=False)
    return bool(pruned.removed or pruned.leftovers)


@app.command(epilog="Example: `qin load-items --items data/item_info.parquet --levels data/train.parquet`")
def load_items(
    items: Items,
    levels: Annotated[
        list[Path] | None, typer.Option(help="Clicks to take each item's last levels from; without, all are 0.")
    ] = None,
    redis: Redis = None,
    data_dir: DataDir = None,
) -> None:
    """Write a catalogue to Redis."""
    from service import logs
    from service.bulk import load_items as run

    logs.configure()
    loaded = run(items, levels or [], redis, data_dir)
    out.print(
        f"{loaded.written} items written, {loaded.differing} had levels that differed between rows (the last counts)"
    )


@app.command(epilog="Example: `qin load-histories --data data/train.parquet --data data/valid.parquet`")
def load_histories(
    data: Annotated[list[Path], typer.Option(help="Clicks; each user's last row counts.")],
    redis: Redis = None,
    data_dir: DataDir = None,
) -> None:
    """Write users' histories to Redis."""
    from service import logs
    from service.bulk import load_histories as run

    logs.configure()
    loaded = run(data, redis, data_dir)
    out.print(
        f"{loaded.written} histories written, {loaded.differing} users had rows that differed (the last one counts)"
    )


@app.command(epilog="Example: `qin serve --store store --port 8000`")
def serve(
    store: Store,
    model: Model = "qin",
    cache_dir: CacheDir = None,
    redis: Redis = None,
    data_dir: DataDir = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="QIN_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", envvar="QIN_PORT", min=0, max=65535)] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", envvar="QIN_DEVICE")] = "auto",
    workers: Annotated[
        int,
        typer.Option(help="Processes that answer, over one catalogue in shared memory.", envvar="QIN_WORKERS", min=1),
    ] = 1,
    require_kernels: Annotated[
        bool, typer.Option("--require-kernels", help="Serve nothing unfused.", envvar="QIN_REQUIRE_KERNELS")
    ] = False,
) -> None:
    """Serve a model over HTTP."""
    from service.server import serve as run

    sys.exit(
        run(
            store=store,
            model=model,
            cache_dir=cache_dir,
            redis_url=redis,
            data_dir=data_dir,
            host=host,
            port=port,
            device=device,
            workers=workers,
            require_kernels=require_kernels,
        )
    )


@app.command(epilog="Example: `qin rank --user 42 --candidates 7,9,11 --top-k 2 --explain`")
def rank(
    user: Annotated[int, typer.Option(help="The user's id.")],
    candidates: Annotated[str, typer.Option(help="Item ids, separated by commas.")],
    top_k: Annotated[int | None, typer.Option(help="Only the best so many.")] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids, oldest first, in place of the stored ones; '' is none.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell which items of the history count.")] = False,
    deadline_ms: Annotated[float | None, typer.Option(help="After so long an answer is of no use.")] = None,
    url: Url = DEFAULT_URL,
    key: Annotated[
        str | None,
        typer.Option(help="Read key or admin key, if the service has one.", envvar=["QIN_READ_KEY", "QIN_ADMIN_KEY"]),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Rank candidates for a user."""
    ids, seen = _ids(candidates), None if history is None else _ids(history) if history.strip() else []
    from contract.client import Client
    from service import ranking_table

    with Client(url, read_key=key) as client:
        answer = client.rank(user, ids, top_k=top_k, history=seen, explain=explain, deadline_ms=deadline_ms)
    _show(answer, ranking_table.ranking(answer, ids), as_json)


def _ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of item ids such as 1,2,3") from error


@app.command(epilog="Example: `qin models --url http://127.0.0.1:8000`")
def models(url: Url = DEFAULT_URL, model: Model = "qin", key: AdminKey = None, as_json: AsJson = False) -> None:
    """List the versions that a service can serve, and what each replica serves."""
    from contract.client import Client
    from service import model_tables

    with Client(url, key) as client:
        info = client.model(model)
    _show(info, model_tables.model(info), as_json)


@app.command(epilog="Example: `qin promote 20260101T120000000Z-0123abcd --canary 0.05`")
def promote(
    version: Annotated[str, typer.Argument(help="As `qin models` lists it.")],
    canary: Annotated[
        float | None, typer.Option(help="Only for this share of the users, the same ones all the time.")
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Only compare it: it answers nobody.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Whatever the gate says.")] = False,
    model: Model = "qin",
    url: Url = DEFAULT_URL,
    key: AdminKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a version the one that is served, or put it on trial."""
    from contract.client import Client
    from service import model_tables

    with Client(url, key) as client:
        promoted = client.promote(version, model, canary=canary, shadow=shadow, force=force)
    _show(promoted, model_tables.promotion(promoted, model), as_json)


@app.command(epilog="Example: `qin trial`")
def trial(url: Url = DEFAULT_URL, model: Model = "qin", key: AdminKey = None, as_json: AsJson = False) -> None:
    """Show the version that is on trial and, in the shadow, how it compares."""
    from contract.client import Client
    from service import model_tables

    with Client(url, key) as client:
        report = client.trial(model)
    _show(report, model_tables.trial(report), as_json)


@app.command(epilog="Example: `qin rollback`")
def rollback(url: Url = DEFAULT_URL, model: Model = "qin", key: AdminKey = None, as_json: AsJson = False) -> None:
    """End the trial that is under way, or go back to the version that was served before."""
    from contract.client import Client
    from service import model_tables

    with Client(url, key) as client:
        rolled_back = client.rollback(model)
    _show(rolled_back, model_tables.promotion(rolled_back, model), as_json)


@app.command(epilog="Example: `qin accept-loss`")
def accept_loss(url: Url = DEFAULT_URL, key: AdminKey = None) -> None:
    """Say that items which Redis lost are gone for good."""
    from contract.client import Client

    with Client(url, key) as client:
        client.accept_loss()
    out.print("every replica forgets what Redis lost, within a second")


@app.command(epilog="Example: `qin loadtest --rate 200 --duration 30 --slo p99=10ms,errors=0 --report report`")
def loadtest(
    url: Url = DEFAULT_URL,
    scenario: Annotated[
        str, typer.Option(help="steady, ramp, burst, swaps, items, hot-user, redis-stall or overload.")
    ] = "steady",
    rate: Annotated[float, typer.Option(help="Requests a second.")] = 50,
    duration: Annotated[float, typer.Option(help="Seconds that are measured; of a ramp, those of each step.")] = 30,
    warmup: Annotated[float, typer.Option(help="Seconds before them, at the same rate.")] = 2,
    candidates: Annotated[str, typer.Option(help="A request's; or a mix with weights: 10:5,100:4,1000:1.")] = "100",
    slo: Annotated[
        str, typer.Option(help="Such as p99=10ms,errors=0.1%; no errors, and none shed, where nothing is said.")
    ] = "",
    report_dir: Annotated[Path | None, typer.Option("--report", help="Folder of report.html, report.json.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Admin key, or the read key where nothing is written.", envvar=["QIN_ADMIN_KEY", "QIN_READ_KEY"]
        ),
    ] = None,
    model: Model = "qin",
    items: Annotated[Path | None, typer.Option(help="An item_info.parquet to take ids from.")] = None,
    clicks: Annotated[list[Path] | None, typer.Option(help="Clicks to take users and popularity from.")] = None,
    users: Annotated[str, typer.Option(help="Their ids, where there are no clicks.")] = "1-10000",
    item_ids: Annotated[str | None, typer.Option(help="Without --items; by default as many as are served.")] = None,
    zipf: Annotated[float, typer.Option(help="Exponent of popularity; 0: all alike.")] = 1,
    seed: Annotated[int, typer.Option(help="The same load again.")] = 1,
    spacing: Annotated[Literal["poisson", "even"], typer.Option(help="Of the moments of sending.")] = "poisson",
    processes: Annotated[int, typer.Option(help="That send.")] = 2,
    connections: Annotated[int, typer.Option(help="At most so many.")] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request has failed.")] = 5,
    redis: Annotated[str | None, typer.Option(help="redis-stall: URL of the node to stall.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="redis-stall: folder of an embedded Valkey.")] = None,
    burst: Annotated[float, typer.Option(help="burst: times the mean rate.")] = 5,
    overload: Annotated[float, typer.Option(help="overload: times saturation.")] = 3,
    pause: Annotated[float, typer.Option(help="swaps: seconds between two.")] = 2,
    stall: Annotated[float, typer.Option(help="redis-stall: seconds.")] = 1,
    writes: Annotated[float, typer.Option(help="items: changed in a second.")] = 20,
    hot_share: Annotated[float, typer.Option(help="hot-user: share of the requests.")] = 0.5,
) -> None:
    """Load a service in an open loop; status 1 where the SLO breaks, 2 where nothing could be measured."""
    from loadtest.command import run
    from loadtest.options import make_options

    options = make_options(
        url=url,
        scenario=scenario,
        rate=rate,
        duration_s=duration,
        warmup_s=warmup,
        candidates=candidates,
        slo=slo,
        report=report_dir,
        key=key,
        model=model,
        items=items,
        clicks=tuple(clicks or ()),
        users=users,
        item_ids=item_ids,
        zipf=zipf,
        seed=seed,
        spacing=spacing,
        processes=processes,
        connections=connections,
        timeout_s=timeout,
        redis_url=redis,
        data_dir=data_dir,
        burst=burst,
        overload=overload,
        pause_s=pause,
        stall_s=stall,
        writes_per_s=writes,
        hot_share=hot_share,
    )
    sys.exit(run(options, out, err))


@app.command(epilog="Example: `qin demo`")
def demo() -> None:
    """Train, serve, rank and swap on generated data, in under three minutes."""
    from demo.story import run

    sys.exit(run(out))


def _show(answer: object, table: object, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
    else:
        out.print(table, highlight=False)


def _print_json(answer: object) -> None:
    import msgspec

    out.print_json(data=msgspec.to_builtins(answer))


def main() -> None:
    """Run the command line; an expected failure is one readable line and exit code 1, of a load test 2."""
    try:
        app()
    except Exception as error:
        if not _expected(error):
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(getattr(error, "exit_status", 1))


def _expected(error: Exception) -> bool:
    """Tell errors whose message is for the user, the rooms' own and the system's, from faults of the program."""
    if isinstance(error, OSError):
        return True
    rooms = ("contract", "kernels", "preparation", "training", "export", "scoring", "service", "demo", "loadtest")
    return any(base.__module__.split(".")[0] in rooms for base in type(error).__mro__)


if __name__ == "__main__":
    main()
