// Package seeded is what a seeded build of blessd asks at run time: whether one of
// its bugs is switched on, and whether it is to be killed here. See package seed,
// which puts the questions into copies of the source files.
//
// It is empty without the build tag "seeded", so that a call of it that strays into
// the real source does not compile.
package seeded
