"""Check a history against the guarantees of wanworks, one function per guarantee. Pure."""

from tests.soak.history import History
from tests.soak.rules.device_rules import (
    a_device_is_quarantined_only_as_the_rule_says,
    a_device_runs_one_job_and_finishes_one,
    a_quarantined_device_takes_nothing,
    the_job_after_a_poisoned_context_runs_in_a_new_process,
)
from tests.soak.rules.flow_rules import (
    a_dependant_starts_after_its_parents,
    a_skip_has_a_cause,
    every_flow_ends_as_its_jobs_did,
    one_message_for_each_end_of_a_flow,
)
from tests.soak.rules.job_rules import (
    a_cancel_is_obeyed,
    a_deleted_job_disappears,
    a_pause_is_obeyed,
    all_tell_the_same_end,
    an_accepted_job_is_there,
    an_attempt_never_falls,
    an_end_stays,
    equal_jobs_make_equal_bytes,
    every_accepted_job_ends,
    every_end_reaches_its_webhook,
    no_job_fails_without_a_cause,
    one_key_is_one_job,
    one_use_for_each_generation,
    what_is_served_is_the_winners,
)
from tests.soak.rules.leftover_rules import (
    a_drained_node_takes_nothing,
    a_running_job_is_alive,
    no_answer_is_a_fault,
    no_file_is_left,
    no_frames_are_left,
    no_key_stays_in_redis,
    no_partial_download_is_left,
    no_process_is_left,
)
from tests.soak.rules.order_rules import (
    a_batch_ends_once_and_counts_right,
    a_preempted_job_continues,
    nothing_starts_before_its_time,
    nothing_starts_while_paused,
)
from tests.soak.rules.violations import Rule, Violation


def check(history: History) -> list[Violation]:
    """Return every violation of every rule."""
    return [found for rule in RULES for found in rule(history)]


RULES: tuple[Rule, ...] = (
    every_flow_ends_as_its_jobs_did,
    a_dependant_starts_after_its_parents,
    a_skip_has_a_cause,
    one_message_for_each_end_of_a_flow,
    a_batch_ends_once_and_counts_right,
    nothing_starts_before_its_time,
    nothing_starts_while_paused,
    a_preempted_job_continues,
    every_accepted_job_ends,
    no_job_fails_without_a_cause,
    an_end_stays,
    all_tell_the_same_end,
    an_attempt_never_falls,
    one_use_for_each_generation,
    what_is_served_is_the_winners,
    equal_jobs_make_equal_bytes,
    every_end_reaches_its_webhook,
    a_cancel_is_obeyed,
    a_pause_is_obeyed,
    one_key_is_one_job,
    an_accepted_job_is_there,
    a_deleted_job_disappears,
    no_file_is_left,
    no_frames_are_left,
    a_device_runs_one_job_and_finishes_one,
    no_partial_download_is_left,
    no_key_stays_in_redis,
    no_process_is_left,
    a_running_job_is_alive,
    a_drained_node_takes_nothing,
    the_job_after_a_poisoned_context_runs_in_a_new_process,
    a_device_is_quarantined_only_as_the_rule_says,
    a_quarantined_device_takes_nothing,
    no_answer_is_a_fault,
)
