package scenario

import "slices"

// files has the scenarios of each file of this package.
var files = [][]Scenario{
	killScenarios,
	startScenarios,
	keyScenarios,
	rotateKeyScenarios,
	payloadScenarios,
	wireScenarios,
	stopScenarios,
	systemdScenarios,
	clusterScenarios,
	diskScenarios,
	natsScenarios,
	huntScenarios,
	powercutScenarios,
	diskfullScenarios,
	diskerrorScenarios,
	damageScenarios,
	awayScenarios,
	overloadScenarios,
	clusterfaultScenarios,
	handoverScenarios,
	natstlsScenarios,
	consumerScenarios,
	clockScenarios,
	soakScenarios,
}

// All returns every scenario.
func All() []Scenario { return slices.Concat(files...) }
