package kind

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A pod that was faster than its node, which was still putting the image into its store, is waited for; one that never gets it is given up, and so is one whose
// container was started again and again.
func TestCrashed(t *testing.T) {
	nobody, err := kubernetes.NewForConfig(&rest.Config{Host: "http://127.0.0.1:1"}) // a pod's log cannot be read
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		reason   string
		started  time.Time
		restarts int32
		hopeless bool
	}{
		"starts":                          {"ContainerCreating", now, 0, false},
		"image not there yet":             {"ErrImagePull", now, 0, false},
		"image not there yet, asks again": {"ImagePullBackOff", now.Add(-imagePatience / 2), 0, false},
		"image never there":               {"ImagePullBackOff", now.Add(-2 * imagePatience), 0, true},
		"no image by that name":           {"InvalidImageName", now, 0, true},
		"ended once":                      {"CrashLoopBackOff", now, 1, false},
		"ends again and again":            {"CrashLoopBackOff", now, hopeless, true},
	} {
		started := metav1.NewTime(c.started)
		pod := corev1.Pod{Status: corev1.PodStatus{StartTime: &started, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "agent", RestartCount: c.restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: c.reason}}},
		}}}
		err := (&kube{typed: nobody}).crashed(t.Context(), pod)
		if (err != nil) != c.hopeless {
			t.Errorf("%s: %v, want it given up: %v", name, err, c.hopeless)
		}
	}
}
