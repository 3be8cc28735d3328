"""Every rule that the manifests keep, by name. A rule yields what breaks it and says why it is.

`trap N` is the number in the table of docs/kubernetes.md.
"""

from collections.abc import Callable, Iterator

from tests.k8s.manifests import Manifests
from tests.k8s.rules import (
    keys,
    lifetime,
    network,
    operator,
    placement,
    proxies,
    security,
    serve_config,
)

Rule = Callable[[Manifests], Iterator[str]]

_ALL: tuple[Rule, ...] = (
    serve_config.serve_config_is_that_of_serve_run,
    serve_config.serve_keys_are_known,
    serve_config.ingress_sets_max_ongoing_requests,
    serve_config.serve_listens_where_the_service_leads,
    placement.one_gpu_a_worker,
    placement.gpu_nodes_are_selected_and_tolerated,
    placement.every_deployment_has_a_place,
    placement.gateway_is_beside_no_gpu,
    placement.cpus_are_requested_not_limited,
    placement.memory_is_limited_as_requested,
    placement.head_takes_no_load,
    placement.autoscaling_is_rays_v2,
    placement.upgrade_has_the_gpus_it_needs,
    placement.cache_reaches_every_node,
    lifetime.stopping_workers_let_streams_end,
    lifetime.head_ends_at_once,
    lifetime.start_has_time_to_load,
    lifetime.budgets_can_be_kept,
    lifetime.head_is_recoverable_or_protected,
    lifetime.workers_find_a_new_head,
    lifetime.runtime_settings_are_those_of_runtime_env,
    lifetime.settings_are_alike_on_all_nodes,
    lifetime.live_changes_make_no_new_cluster,
    proxies.proxies_wait_for_streams,
    proxies.gke_waits_and_finds_pods_healthy,
    security.pods_meet_the_restricted_standard,
    security.file_systems_are_read_only_with_room_to_write,
    security.only_the_head_talks_to_the_api_server,
    security.auth_mode_is_explicit,
    security.ray_ports_need_the_token,
    security.no_secret_is_written_down,
    security.shared_memory_is_bounded,
    network.ray_is_closed_to_all_but_its_own,
    keys.clients_come_with_keys,
    keys.keys_outlive_pods,
    network.ray_comes_first,
    network.images_are_pinned,
    network.everything_is_in_one_namespace,
    network.names_lead_somewhere,
    operator.operator_accepts,
    operator.ray_version_is_the_locked_one,
)
RULES: dict[str, Rule] = {rule.__name__: rule for rule in _ALL}
