//! Scheduler, address management and controllers.
