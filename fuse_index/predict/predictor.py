"""The predictor for tokens or words of a problem."""

from __future__ import annotations

from fuse_index.errors import OptionError
from fuse_index.predict.gradients import Gradients
from fuse_index.predict.ranking import Predictor, UnitPredictor
from fuse_index.predict.token_predictor import TokenPredictor
from fuse_index.predict.units import TokenUnits, Unit, Units, WordUnits
from fuse_index.predict.word_predictor import WordPredictor


def unit_predictor(gradients: Gradients, units: Units, predictor: Predictor) -> UnitPredictor:
    """Return what ranks units.

    Args:
        gradients: of the problem, counted.
        units: the candidates.
        predictor: how they are ranked.

    Raises:
        OptionError: no term has a gradient, a target has no adapter that is needed, or the
            predictor cannot rank these units.
    """
    require_predictor(units.unit, predictor)
    if isinstance(units, WordUnits):
        return WordPredictor(gradients, units, predictor)
    assert isinstance(units, TokenUnits)
    return TokenPredictor(gradients, units, predictor)


def require_predictor(unit: Unit, predictor: Predictor) -> None:
    """Refuse a predictor that cannot rank units of a kind.

    Raises:
        OptionError: it is the mixture, for tokens.
    """
    if unit is Unit.TOKEN and predictor is Predictor.MIXTURE:
        raise OptionError(
            "predictor 'mixture' with unit 'token'",
            expected="adapter, embedding or layers: the mixture is of words",
        )
