//! Services as desired state: a pure function from Service and EndpointSlices to fragments.
