// Package scripted is the world outside, played on a loopback socket: a model provider and a target of actions that answer
// what a script says, and that write down everything they were sent. The journals are the judge in tests: what they hold is
// what happened, whatever our own tables believe. `sluice dev` uses them too, so that the whole product runs with no account
// anywhere.
//
// What must not enter: anything of the house. Nothing of Sluice is imported here, so that a misunderstanding of ours about
// a protocol is not repeated by its judge; and nothing here is meant to be reached from another machine.
package scripted
