"""Everything a run is told, in one frozen place."""

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

#: Name of the whole run's workflow, and of its folder in the work dir.
WORKFLOW_NAME = "qsmflow_wf"


@dataclass(frozen=True)
class Settings:
    """The settings of a run; the field names are those of the command line's flags.

    Attributes
    ----------
    bids_dir, out_dir : Path
        Raw data set and derivative data set.
    analysis_level : str
        ``participant`` (maps, measures and a report of each) or ``group`` (gather the measures).
    participant_label, session_label : tuple of str
        Labels without ``sub-`` and ``ses-``; empty means all.
    bids_filter_file, bids_database_dir : Path or None
        Entities to select by; folder of a stored pybids index.
    derivatives : mapping
        Name to path of derivative data sets that hold brain masks; ``atlas`` holds label images.
    mask_file : Path or None
        Brain mask for every selected acquisition.
    field_strength : float or None
        Tesla; stands in for missing metadata.
    phase_sign : str
        ``auto``, ``+1`` or ``-1``.
    bipolar : bool
        Whether the fit has a term for alternating readout gradients.
    background, inversion, reference : str
        ``pdf`` or ``vsharp``; ``medi``, ``tv``, ``tkd`` or ``deepqsm``; ``csf``, ``brain`` or ``none``.
    tkd_threshold : float
        Smallest dipole kernel magnitude that TKD divides by.
    tv_lambda : float or None
        Weight of the total variation; None for an automatic one.
    medi_preset : str
        ``in-vivo`` or ``simulation``; the other MEDI settings override it where they are not None.
    medi_lambda, medi_smv_radius, medi_csf_lambda : float or None
        Weight of the regularisation, automatic unless given; radius in mm; weight of the CSF term.
    medi_nonlinear, medi_merit, medi_outside_sources : bool or None
        Nonlinear data term; down-weighting of outliers; correction of the background removal.
    deepqsm_model : str
        Name of a shipped model, or folder of another one.
    motion_correction : str
        ``auto`` (write a corrected map where motion is severe), ``on`` or ``off``.
    motion_models : tuple of str
        U-Net and PReNet, each as ``deepqsm_model``.
    reference_filter : mapping
        Labels by entity of the scan of each subject that the others are compared with; none: no comparison.
    sloppy : bool
        Few iterations: for trying out, not for results.
    random_seed : int
        Seed of whatever is random.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    nprocs : int
        Processes at once.
    omp_nthreads : int or None
        Threads of one stage; None where the number of acquisitions is to decide.
    mem_gb : float
        Memory that may be used, GB.
    low_mem : bool
        Fit slab by slab from disk.
    work_dir : Path
        Where intermediate results are kept.
    """

    bids_dir: Path
    out_dir: Path
    analysis_level: str = "participant"
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    derivatives: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))
    skip_bids_validation: bool = False
    mask_file: Path | None = None
    field_strength: float | None = None
    phase_sign: str = "auto"
    bipolar: bool = False
    background: str = "pdf"
    inversion: str = "medi"
    reference: str = "csf"
    tkd_threshold: float = 0.19
    tv_lambda: float | None = None
    medi_preset: str = "in-vivo"
    medi_lambda: float | None = None
    medi_nonlinear: bool | None = None
    medi_merit: bool | None = None
    medi_outside_sources: bool | None = None
    medi_smv_radius: float | None = None
    medi_csf_lambda: float | None = None
    deepqsm_model: str = "deepqsm-head"
    motion_correction: str = "auto"
    motion_models: tuple[str, str] = ("motion-unet", "motion-prenet")
    reference_filter: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))
    sloppy: bool = False
    random_seed: int = 0
    device: str = "auto"
    nprocs: int = 1
    omp_nthreads: int | None = 1
    mem_gb: float = 8.0
    low_mem: bool = False
    work_dir: Path = Path("work")
    clean_workdir: bool = False
    use_plugin: Path | None = None
    stop_on_first_crash: bool = False
    write_graph: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    dry_run: bool = False
    verbose: int = 0
