//! A real nginx in front of the gateway, and behind it.

mod behind;
mod chain;
mod front;
mod http10;
mod nginx;
mod origin;
mod raw;
mod readme;
mod site;
mod stream;
