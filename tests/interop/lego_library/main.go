// A command line for lego's library, current release: what Traefik and others run.
//
// lego's own command links the SDKs of 200 DNS providers, and takes minutes to build. What speaks ACME is the library, and this
// program is the few lines that an embedder writes: a key, an account, solvers, a request.
package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-acme/lego/v5/acme"
	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/go-acme/lego/v5/certificate"
	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/challenge/http01"
	"github.com/go-acme/lego/v5/challenge/tlsalpn01"
	"github.com/go-acme/lego/v5/lego"
	"github.com/go-acme/lego/v5/registration"
)

type names []string

func (n *names) String() string     { return strings.Join(*n, ",") }
func (n *names) Set(s string) error { *n = append(*n, s); return nil }

var (
	server    = flag.String("server", "", "the directory's URL")
	directory = flag.String("path", "", "where everything is kept")
	email     = flag.String("email", "", "the account's contact")
	method    = flag.String("challenge", "http-01", "http-01, tls-alpn-01 or dns-01")
	address   = flag.String("listen", "", "where to answer http-01 or tls-alpn-01")
	hook      = flag.String("hook", "", "called as `present FQDN VALUE` for dns-01")
	keyType   = flag.String("key-type", "ec256", "of the certificate's key")
	profile   = flag.String("profile", "", "the order's profile")
	chain     = flag.String("preferred-chain", "", "a common name in the chain that is wanted")
	kid       = flag.String("kid", "", "of the external account")
	hmac      = flag.String("hmac", "", "its key")
	reason    = flag.Uint("reason", 0, "of a revocation")
	domains   names
)

// user is the account; its key and URL are kept in the directory.
type user struct {
	key     crypto.Signer
	account *acme.ExtendedAccount
}

func (u *user) GetEmail() string                       { return *email }
func (u *user) GetRegistration() *acme.ExtendedAccount { return u.account }
func (u *user) GetPrivateKey() crypto.Signer           { return u.key }

func path(name string) string { return filepath.Join(*directory, name) }

func file(suffix string) string {
	return path(strings.ReplaceAll(domains[0], "*", "_") + suffix)
}

// script is a DNS provider that calls the hook.
type script struct{}

func (script) Present(ctx context.Context, domain, _, keyAuth string) error {
	info := dns01.GetChallengeInfo(ctx, domain, keyAuth)
	return exec.CommandContext(ctx, *hook, "present", info.EffectiveFQDN, info.Value).Run()
}

func (script) CleanUp(context.Context, string, string, string) error { return nil }

func loadUser() (*user, error) {
	found := &user{}
	pem, err := os.ReadFile(path("account.key"))
	if errors.Is(err, os.ErrNotExist) {
		found.key, err = certcrypto.GeneratePrivateKey(certcrypto.EC256)
		return found, err
	}
	if err != nil {
		return nil, err
	}
	if found.key, err = certcrypto.ParsePEMPrivateKey(pem); err != nil {
		return nil, err
	}
	document, err := os.ReadFile(path("account.json"))
	if err != nil {
		return nil, err
	}
	return found, json.Unmarshal(document, &found.account)
}

func (u *user) save() error {
	document, err := json.Marshal(u.account)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path("account.key"), certcrypto.PEMEncode(u.key), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path("account.json"), document, 0o600)
}

func newClient(u *user) (*lego.Client, error) {
	config := lego.NewConfig(u)
	config.CADirURL = *server
	client, err := lego.NewClient(config)
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(*address)
	switch *method {
	case "http-01":
		err = client.Challenge.SetHTTP01Provider(http01.NewProviderServer(host, port))
	case "tls-alpn-01":
		err = client.Challenge.SetTLSALPN01Provider(tlsalpn01.NewProviderServer(host, port))
	case "dns-01":
		err = client.Challenge.SetDNS01Provider(script{}, dns01.PropagationWait(time.Millisecond, true))
	default:
		err = fmt.Errorf("unknown challenge %q", *method)
	}
	return client, err
}

func register(ctx context.Context, u *user, client *lego.Client) (err error) {
	if *kid != "" {
		u.account, err = client.Registration.RegisterWithExternalAccountBinding(ctx, registration.RegisterEABOptions{
			TermsOfServiceAgreed: true, Kid: *kid, HmacEncoded: *hmac,
		})
	} else {
		u.account, err = client.Registration.Register(ctx, registration.RegisterOptions{TermsOfServiceAgreed: true})
	}
	if err != nil {
		return err
	}
	return u.save()
}

func obtain(ctx context.Context, client *lego.Client) error {
	kind, err := certcrypto.ToKeyType(*keyType)
	if err != nil {
		return err
	}
	got, err := client.Certificate.Obtain(ctx, certificate.ObtainRequest{
		Domains: domains, KeyType: kind, Bundle: true, PreferredChain: *chain, Profile: *profile,
	})
	if err != nil {
		return err
	}
	return write(got)
}

func renew(ctx context.Context, client *lego.Client) error {
	bundle, err := os.ReadFile(file(".crt"))
	if err != nil {
		return err
	}
	kind, err := certcrypto.ToKeyType(*keyType)
	if err != nil {
		return err
	}
	resource := certificate.Resource{Domains: domains, Certificate: bundle, KeyType: kind}
	got, err := client.Certificate.Renew(ctx, resource, &certificate.RenewOptions{
		Bundle: true, UseARICertID: true, PreferredChain: *chain, Profile: *profile,
	})
	if err != nil {
		return err
	}
	return write(got)
}

func write(got *certificate.Resource) error {
	if err := os.WriteFile(file(".key"), got.PrivateKey, 0o600); err != nil {
		return err
	}
	return os.WriteFile(file(".crt"), got.Certificate, 0o600)
}

func leaf() (*x509.Certificate, []byte, error) {
	bundle, err := os.ReadFile(file(".crt"))
	if err != nil {
		return nil, nil, err
	}
	found, err := certcrypto.ParsePEMBundle(bundle)
	if err != nil {
		return nil, nil, err
	}
	return found[0], bundle, nil
}

// ask prints what lego's library makes of the renewal information: whether it would renew now, the window, the explanation.
func ask(ctx context.Context, client *lego.Client) error {
	found, _, err := leaf()
	if err != nil {
		return err
	}
	info, err := client.Certificate.GetRenewalInfo(ctx, found)
	if err != nil {
		return err
	}
	document := map[string]any{
		"now":         info.ShouldRenewAt(time.Now(), 0) != nil,
		"from":        info.SuggestedWindow.Start,
		"until":       info.SuggestedWindow.End,
		"explanation": info.ExplanationURL,
	}
	return json.NewEncoder(os.Stdout).Encode(document)
}

func rollOver(ctx context.Context, u *user, client *lego.Client) error {
	next, err := certcrypto.GeneratePrivateKey(certcrypto.RSA2048)
	if err != nil {
		return err
	}
	if err := client.Registration.KeyRollover(ctx, next); err != nil {
		return err
	}
	u.key = next
	return u.save()
}

func run(ctx context.Context, verb string) error {
	u, err := loadUser()
	if err != nil {
		return err
	}
	client, err := newClient(u)
	if err != nil {
		return err
	}
	if u.account == nil {
		if err := register(ctx, u, client); err != nil {
			return err
		}
	}
	switch verb {
	case "issue":
		return obtain(ctx, client)
	case "renew":
		return renew(ctx, client)
	case "ask":
		return ask(ctx, client)
	case "revoke":
		_, bundle, err := leaf()
		if err != nil {
			return err
		}
		return client.Certificate.RevokeWithReason(ctx, bundle, reason)
	case "contact":
		_, err := client.Registration.UpdateRegistration(ctx, registration.RegisterOptions{TermsOfServiceAgreed: true})
		return err
	case "roll-over":
		return rollOver(ctx, u, client)
	case "deactivate":
		return client.Registration.DeleteRegistration(ctx)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func main() {
	flag.Var(&domains, "domain", "an identifier; the first names the files")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
