package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"keylab.dev/keylab/images"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/manifests"
)

func newKubeconfig(s streams) *cobra.Command {
	var f labFlag
	var merge bool
	c := &cobra.Command{
		Use:   "kubeconfig [LAB]",
		Short: "Print the path of the kubeconfig of a lab's cluster",
		Long: `Prints the path of the kubeconfig of a lab's cluster (substrate kind), which is in the lab's own folder. With --merge the lab's context is
put into your own kubeconfig, and becomes the current one.`,
		Example: `  export KUBECONFIG=$(keylab kubeconfig)`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(args)
			if err != nil {
				return err
			}
			path, err := l.Kubeconfig(c.Context())
			if err != nil {
				return explain(l, err)
			}
			if !merge {
				fmt.Fprintln(s.out, path)
				return nil
			}
			return mergeKubeconfig(s, path)
		},
		ValidArgsFunction: completeLabs,
	}
	f.add(c)
	c.Flags().BoolVar(&merge, "merge", false, "put the lab's context into your own kubeconfig")
	return c
}

// mergeKubeconfig puts the lab's cluster, user and context into the user's own file.
func mergeKubeconfig(s streams, path string) error {
	lab, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	access := clientcmd.NewDefaultPathOptions()
	own, err := access.GetStartingConfig()
	if err != nil {
		return fmt.Errorf("read your kubeconfig: %w", err)
	}
	for name, v := range lab.Clusters {
		own.Clusters[name] = v
	}
	for name, v := range lab.AuthInfos {
		own.AuthInfos[name] = v
	}
	for name, v := range lab.Contexts {
		own.Contexts[name] = v
	}
	own.CurrentContext = lab.CurrentContext
	if err := clientcmd.ModifyConfig(access, *own, true); err != nil {
		return fmt.Errorf("write your kubeconfig: %w", err)
	}
	fmt.Fprintf(s.err, "The context %s is in %s, and is the current one.\n", lab.CurrentContext, access.GetDefaultFilename())
	return nil
}

func newKubectl(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "kubectl -- [ARGUMENT…]",
		Short: "Run kubectl against a lab's cluster",
		Example: `  keylab kubectl -- get pods -A
  keylab kubectl -l mylab -- -n keylab-agents logs ds/keylime-agent`,
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			path, err := l.Kubeconfig(c.Context())
			if err != nil {
				return explain(l, err)
			}
			program, err := kubectl()
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(context.WithoutCancel(c.Context()), program, args...)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+path)
			return attached(s, cmd)
		},
	}
	f.add(c)
	return c
}

// kubectl is the one that was built with the cluster's images, or this machine's.
func kubectl() (string, error) {
	cache, err := state.CacheBase()
	if err != nil {
		return "", err
	}
	if path := images.Kubectl(filepath.Join(cache, "images")); path != "" {
		return path, nil
	}
	path, err := exec.LookPath("kubectl")
	if err != nil {
		return "", fmt.Errorf("%w: kubectl is needed on this machine (`keylab images build` makes one, too)", err)
	}
	return path, nil
}

func newManifests(s streams) *cobra.Command {
	var f labFlag
	var secrets bool
	var dir string
	c := &cobra.Command{
		Use:   "manifests [LAB]",
		Short: "Print the Kubernetes objects of a lab, to keep, change and apply by hand",
		Long: `Prints the Kubernetes objects of a lab that was made (substrate kind): agents, ingress, device plugin, load balancer. The contents of Secrets are
left out unless --secrets is given: they are the agents' private keys.`,
		Example: `  keylab manifests --secrets > lab.yaml && keylab kubectl -- apply -f lab.yaml`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(args)
			if err != nil {
				return err
			}
			objects, err := l.Objects()
			if err != nil {
				return explain(l, err)
			}
			if !secrets {
				objects = manifests.Redact(objects)
			}
			if dir == "" {
				return manifests.Encode(s.out, objects)
			}
			file, err := os.OpenFile(filepath.Clean(dir), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			defer file.Close()
			return manifests.Encode(file, objects)
		},
		ValidArgsFunction: completeLabs,
	}
	f.add(c)
	c.Flags().BoolVar(&secrets, "secrets", false, "with the contents of Secrets")
	c.Flags().StringVarP(&dir, "output-file", "o", "", "write to this file, which nobody else may read")
	return c
}
