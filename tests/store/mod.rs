//! What one store has and the other has not: several daemons on PostgreSQL, and each store's own
//! faults.

mod disk;
mod server;
mod several;
