// Package steps carries out named steps that build on one another, in parallel where they allow it, and undoes them.
//
// A step starts as soon as all steps that it comes After are done. At the first failure no further step starts, the
// context of those under way is cancelled, and when they have ended, what was done is undone, the last first. The error
// is that of the step that failed first, whatever else went wrong later.
//
//	undo, err := steps.Run(ctx, []steps.Step{
//		{Name: "network", Do: buildNetwork, Undo: removeNetwork},
//		{Name: "dns", After: []string{"network"}, Do: startDNS, Undo: stopDNS},
//		{Name: "ingress", After: []string{"network"}, Do: startIngress, Undo: stopIngress},
//	}, steps.Options{OnEvent: print})
//	if err != nil {
//		return err // everything is undone
//	}
//	defer undo.Undo(context.WithoutCancel(ctx))
//
// The package knows nothing of what the steps do. It starts no step when the list itself is wrong: an unknown name, a
// name given twice, a circle.
package steps
