package event

import (
	_ "embed"
	"slices"
)

//go:generate go test . -run TestSchemaIsGenerated -update

// schema is generated from the types of this package by
//
//	go generate ./event
//
// and committed, so that consumers in other languages can read it and nothing
// of the generator is linked into the program.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (2020-12) of an event as it is published. The
// slice is the caller's.
func Schema() []byte { return slices.Clone(schema) }
