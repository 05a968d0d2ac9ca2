from prunetune.advice import Advice as Advice
from prunetune.advice import recommend as recommend
from prunetune.api import Audit as Audit
from prunetune.api import audit as audit
from prunetune.compression.compress_call import compress as compress
from prunetune.compression.compress_models import Shipped as Shipped
from prunetune.deploy.export import export as export
from prunetune.deploy.summary import sparsity_report as sparsity_report
from prunetune.errors import ConfigError as ConfigError
from prunetune.errors import CorruptionError as CorruptionError
from prunetune.errors import DivergedSourceError as DivergedSourceError
from prunetune.errors import InvariantError as InvariantError
from prunetune.layer_sensitivity import Sensitivity as Sensitivity
from prunetune.layer_sensitivity import sensitivity as sensitivity
from prunetune.sparsity.correlation import correlation as correlation
from prunetune.sparsity.enforce import apply_mask as apply_mask
from prunetune.sparsity.enforce import get_mask as get_mask
from prunetune.sparsity.enforce import remove_mask as remove_mask
from prunetune.sparsity.mask import Mask as Mask
from prunetune.sparsity.prune import compute_mask as compute_mask
from prunetune.sparsity.scope import Scope as Scope
from prunetune.sparsity.scope import list_parameters as list_parameters

__version__: str
__all__: list[str]
