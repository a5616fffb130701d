//! Endpoints that get no requests.

use crate::endpoints::is_healthy;
use crate::report::Report;
use crate::world::World;
use tidegate_api::kubernetes::AddressType;

/// Reports them.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    for (object, slice) in world.objects.endpoint_slices() {
        if slice.address_type == AddressType::Fqdn {
            let text =
                "is not enforced, in Istio neither: endpoints with names of addressType FQDN get no requests";
            let advice = "write a ServiceEntry with resolution DNS";
            report.warning(object, "addressType", "not-enforced", text, advice);
        }
    }
    for (object, _) in world.objects.workload_entries() {
        if !is_healthy(object) {
            let text = "gets no requests: its health is checked, and its status does not say Healthy";
            report.note(object, "status.conditions", "unhealthy", text, "");
        }
    }
}
