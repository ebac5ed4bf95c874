// SPDX-License-Identifier: Apache-2.0

// Package gateway works out, from Gateway API objects, what is to be served and
// what each object's status is to say.
//
// It is a pure function of its input: it reads no files, talks to no cluster and
// opens nothing. ListenerSets are not taken yet.
package gateway

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Input is what Compute looks at. It is only read, and the Result shares memory
// with it. Every object has its own namespace and name among those of its kind;
// their order does not matter.
type Input struct {
	// ControllerName is ours: GatewayClasses that name it, and their Gateways, are ours.
	ControllerName string
	// AnyClass makes a Gateway ours, too, whose class is not among Classes.
	AnyClass bool
	// NoNamespaces says that Namespaces may lack some that exist.
	NoNamespaces bool
	// ServicesUnknown says that Services and EndpointSlices may lack some that
	// exist: what they do not tell is left to be resolved, as NAME.NAMESPACE.
	ServicesUnknown bool

	Classes            []*gatewayv1.GatewayClass
	Gateways           []*gatewayv1.Gateway
	TLSRoutes          []*gatewayv1.TLSRoute
	HTTPRoutes         []*gatewayv1.HTTPRoute
	ReferenceGrants    []*gatewayv1.ReferenceGrant
	BackendTLSPolicies []*gatewayv1.BackendTLSPolicy
	Services           []*corev1.Service
	EndpointSlices     []*discoveryv1.EndpointSlice
	Secrets            []*corev1.Secret
	ConfigMaps         []*corev1.ConfigMap
	Namespaces         []*corev1.Namespace

	// Addresses has those of each Gateway that asks for none itself. One that is
	// not there gets no address and is not served. One that is there without any, or a
	// nil map: the Gateway is served on each address that the agent listens on.
	Addresses map[types.NamespacedName][]netip.Addr
	// AddressUsable tells, with an error, of an address in this Gateway's spec that
	// the agent cannot listen on. Nil: all are usable.
	AddressUsable func(gateway types.NamespacedName, at netip.Addr) error
	// Unwatched tells, with an error, of a Secret or ConfigMap that is not among those here,
	// and may exist all the same. Nil: there are none such.
	Unwatched func(kind string, name types.NamespacedName) error
}

// Result is what Compute found. Its lists and statuses depend on the input's
// objects only, not on their order. Conditions have no LastTransitionTime:
// whoever writes them merges them with those that are there.
type Result struct {
	// Routes are in the order of namespace, name and first match.
	Routes []Route
	// HTTP are in the order of their Gateways' precedence.
	HTTP []HTTPListener
	// Refusals are names that a listener for TLS claims and that are not served:
	// they are to be refused, not left to a less specific listener.
	Refusals []Match

	// Statuses by namespace and name, of objects that are ours. A GatewayClass has
	// no namespace. Routes and policies that concern no Gateway of ours are absent;
	// the parents and ancestors here are those of our controller only.
	Classes            map[types.NamespacedName]gatewayv1.GatewayClassStatus
	Gateways           map[types.NamespacedName]gatewayv1.GatewayStatus
	TLSRoutes          map[types.NamespacedName]gatewayv1.TLSRouteStatus
	HTTPRoutes         map[types.NamespacedName]gatewayv1.HTTPRouteStatus
	BackendTLSPolicies map[types.NamespacedName]gatewayv1.PolicyStatus

	Warnings []Warning
}

// Warning tells of something odd in an object that is accepted all the same.
type Warning struct{ Kind, Namespace, Name, Text string }

// Match is a name on a port.
//
// A connection to an address and port is for the Matches that list this address
// with this port; only if there are none, for those that list no address. Among
// them an exact name comes before a longer wildcard, that before a shorter one,
// and "*" is last. No two Matches of a Result are equal in address, port and name.
type Match struct {
	Addresses []netip.Addr // sorted; none: each address of the agent's
	Port      uint16
	Name      string // "a.b", "*.b" (one label or more in front of b), or "*" for any name, or none
	Gateway   types.NamespacedName
	Listener  string
}

// Mode is what is done with TLS.
type Mode uint8

// The modes of a listener.
const (
	Passthrough Mode = iota
	Terminate
)

// String returns "Passthrough" or "Terminate".
func (m Mode) String() string {
	if m == Terminate {
		return "Terminate"
	}
	return "Passthrough"
}

// Route is what becomes of the connections that its Matches take. A TLSRoute on
// listeners that differ in what they do with TLS is several Routes.
type Route struct {
	Route   types.NamespacedName
	Rule    int // index in the TLSRoute's rules
	Matches []Match
	Mode    Mode
	// Termination is not nil if Mode is Terminate. Routes of one Gateway share it.
	Termination *Termination
	// Backends have weights above 0. None: every connection is to be refused.
	Backends []Backend
}

// Termination is how a listener terminates TLS.
type Termination struct {
	Certificates []Certificate // valid pairs, one or more
	// MinVersion is "1.2", "1.3" or empty (the agent's default).
	MinVersion string
	// ClientValidation is nil if clients are not asked for certificates.
	ClientValidation *ClientValidation
}

// Certificate is a chain and its key. From names the object that it is of.
type Certificate struct {
	CertPEM, KeyPEM []byte
	From            string
}

// ClientValidation is how clients' certificates are verified.
type ClientValidation struct {
	CAPEM []byte
	// Insecure lets in clients without a certificate, or with one that CAPEM does
	// not vouch for (AllowInsecureFallback).
	Insecure bool
}

// Backend is one backendRef. It has Invalid, or Host and Port, or Addresses.
type Backend struct {
	Weight int32 // share of the connections, 1 to 1,000,000
	// Service is what the backendRef names.
	Service types.NamespacedName
	// Host is a name to be resolved, NAME.NAMESPACE.
	Host      string
	Port      uint16
	Addresses []netip.AddrPort // sorted
	// Invalid says why this backend's share of the connections is to be refused.
	Invalid string
	// Unready tells that there is nothing wrong but that it has no endpoint that is ready.
	Unready bool
	TLS     *BackendTLS // nil: plain bytes, or the client's own TLS

	portName string // of the Service's port; empty if not known
}

// BackendTLS is how connections to a backend are secured.
type BackendTLS struct {
	// ServerName is sent as SNI, and is whom the certificate must be for if SANs is empty.
	ServerName string
	CAPEM      []byte // empty if System
	System     bool   // the system's CAs vouch
	SANs       []SAN  // the certificate must have one of these
	ClientCert *Certificate
	Policy     types.NamespacedName // the BackendTLSPolicy
}

// SAN is a subject alternative name: one of its fields is set.
type SAN struct{ DNS, URI string }

// Compute works out what is to be served, and each object's status.
func Compute(in Input) *Result {
	c := &computation{in: in, objects: index(in), out: &Result{
		Classes:            map[types.NamespacedName]gatewayv1.GatewayClassStatus{},
		Gateways:           map[types.NamespacedName]gatewayv1.GatewayStatus{},
		TLSRoutes:          make(map[types.NamespacedName]gatewayv1.TLSRouteStatus, len(in.TLSRoutes)),
		HTTPRoutes:         make(map[types.NamespacedName]gatewayv1.HTTPRouteStatus, len(in.HTTPRoutes)),
		BackendTLSPolicies: map[types.NamespacedName]gatewayv1.PolicyStatus{},
	}}
	c.readClasses()
	c.readGateways()
	c.readRoutes()
	c.readPolicies()
	c.nameByAddresses()
	c.findConflicts()
	c.findOverlaps()
	c.attach()
	c.serve()
	c.reportGateways()
	c.reportPolicies()
	slices.SortFunc(c.out.Warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Text, b.Text))
	})
	c.out.Warnings = slices.Compact(c.out.Warnings)
	return c.out
}

// computation is the state of one Compute.
type computation struct {
	in       Input
	objects  *objects
	out      *Result
	gateways []*gateway // ours, by precedence
	byName   map[types.NamespacedName]*gateway
	routes   []*attachable // that name one of our Gateways, by precedence
	policies map[target]*policy
	ordered  []*policy // by precedence
	// targeting has every policy with a Service among its targets.
	targeting map[types.NamespacedName][]*policy
}

func (c *computation) warn(kind string, o metav1.Object, text string) {
	c.out.Warnings = append(c.out.Warnings, Warning{kind, o.GetNamespace(), o.GetName(), text})
}

func key(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// compareNames is the order of NAMESPACE/NAME.
func compareNames(a, b types.NamespacedName) int {
	if a.Namespace == b.Namespace {
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Compare(a.String(), b.String())
}

// byPrecedence compares two objects of a kind as the Gateway API does wherever
// two want the same: the older comes first, then the first by namespace/name.
func byPrecedence[T metav1.Object](a, b T) int {
	at, bt := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if c := at.Compare(bt.Time); c != 0 {
		return c
	}
	return compareNames(key(a), key(b))
}

// sorted returns a copy of the list, by precedence.
func sorted[T metav1.Object](list []T) []T {
	return slices.SortedFunc(slices.Values(list), byPrecedence[T])
}
