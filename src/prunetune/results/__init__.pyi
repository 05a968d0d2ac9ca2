from prunetune.analysis.comparison import Comparison as Comparison
from prunetune.analysis.equivalence import BestStarts as BestStarts
from prunetune.analysis.equivalence import Standing as Standing
from prunetune.analysis.pretraining import Pretraining as Pretraining
from prunetune.analysis.recommend import Recommendation as Recommendation
from prunetune.analysis.statistics import Rule as Rule
from prunetune.analysis.verdict import SparsityTest as SparsityTest
from prunetune.analysis.verdict import Verdict as Verdict
from prunetune.rows import Correlation as Correlation
from prunetune.rows import Missing as Missing
from prunetune.rows import Quantity as Quantity
from prunetune.rows import Results as Results
from prunetune.rows import Spent as Spent
from prunetune.rows import Trial as Trial

__all__: list[str]
