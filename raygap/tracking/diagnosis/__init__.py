"""A look into a trained model: findings.py has the numbers, verdict.py the sentences, page.py what is written."""

from raygap.tracking.diagnosis.findings import Diagnosis, diagnose
from raygap.tracking.diagnosis.page import write_diagnosis

__all__ = ["Diagnosis", "diagnose", "write_diagnosis"]
