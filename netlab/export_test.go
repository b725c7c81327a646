package netlab

// BuildLab is for the tests of package netlab_test: those run the conformance
// suites, which import this package.
var BuildLab = buildLab
