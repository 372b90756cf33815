"""The fields of KubeRay's RayCluster and RayJob (v1, as of KubeRay 1.6), as a JSON schema.

The operator's own definition has 2 MB, nearly all of it Kubernetes' pods. Here are all the fields of
KubeRay's, by name and type, and the names of a pod's and a container's; what is deeper is Kubernetes'
to check (`kubectl apply --dry-run=server`).
"""

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_YES: Schema = {"type": "boolean"}
_ANY: Schema = {}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def _fields(required: str = "", /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _names(names: str) -> dict[str, Schema]:
    return dict.fromkeys(names.split(), _ANY)


_CONTAINER = _fields(
    "name image",
    **{
        **_names(
            "args command envFrom imagePullPolicy lifecycle livenessProbe readinessProbe resizePolicy "
            "restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce "
            "terminationMessagePath terminationMessagePolicy tty volumeDevices workingDir"
        ),
        "name": _TEXT,
        "image": _TEXT,
        "env": {"type": "array", "items": _fields("name", name=_TEXT, value=_TEXT, valueFrom=_ANY)},
        "ports": {
            "type": "array",
            "items": _fields(
                "containerPort", containerPort=_COUNT, name=_TEXT, protocol=_TEXT, **_names("hostPort hostIP")
            ),
        },
        "resources": _fields(limits={"type": "object"}, requests={"type": "object"}, claims=_ANY),
        "volumeMounts": {
            "type": "array",
            "items": _fields(
                "name mountPath", name=_TEXT, mountPath=_TEXT, readOnly=_YES,
                **_names("subPath subPathExpr mountPropagation recursiveReadOnly"),
            ),
        },
    },
)  # fmt: skip
_POD = _fields(
    "containers",
    **{
        **_names(
            "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy "
            "enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers "
            "hostname imagePullSecrets nodeName nodeSelector os overhead preemptionPolicy priority "
            "priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName "
            "schedulerName schedulingGates securityContext serviceAccount serviceAccountName "
            "setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds "
            "tolerations topologySpreadConstraints"
        ),
        "containers": {"type": "array", "minItems": 1, "items": _CONTAINER},
        "initContainers": {"type": "array", "items": _CONTAINER},
        "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
)
_TEMPLATE = _fields("spec", metadata={"type": "object"}, spec=_POD)
_AUTOSCALER = _fields(
    idleTimeoutSeconds=_COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
    **_names("resources image imagePullPolicy env envFrom volumeMounts securityContext"),
)  # fmt: skip
_HEAD = _fields(
    "template", template=_TEMPLATE, rayStartParams=_TEXTS, enableIngress=_YES, labels=_TEXTS, resources=_ANY,
    headService=_ANY, serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)  # fmt: skip
_WORKERS = _fields(
    "groupName template", groupName=_TEXT, template=_TEMPLATE, rayStartParams=_TEXTS, replicas=_COUNT,
    minReplicas=_COUNT, maxReplicas=_COUNT, idleTimeoutSeconds=_COUNT, numOfHosts=_COUNT, labels=_TEXTS,
    resources=_ANY, suspend=_YES, scaleStrategy=_ANY,
)  # fmt: skip
_CLUSTER = _fields(
    "headGroupSpec", headGroupSpec=_HEAD, workerGroupSpecs={"type": "array", "items": _WORKERS},
    rayVersion=_TEXT, enableInTreeAutoscaling=_YES, autoscalerOptions=_AUTOSCALER, suspend=_YES,
    headServiceAnnotations=_TEXTS,
    authOptions=_fields(
        mode={"enum": ["token", "disabled"]}, secretName=_TEXT, enableK8sTokenAuth=_YES
    ),
    **_names("gcsFaultToleranceOptions managedBy networkPolicy upgradeStrategy"),
)  # fmt: skip
_JOB = _fields(
    entrypoint=_TEXT, runtimeEnvYAML=_TEXT, jobId=_TEXT, rayClusterSpec=_CLUSTER, clusterSelector=_TEXTS,
    metadata=_TEXTS, submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    shutdownAfterJobFinishes=_YES, ttlSecondsAfterFinished=_COUNT, suspend=_YES, backoffLimit=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1}, submitterPodTemplate=_TEMPLATE,
    entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"}, entrypointResources=_TEXT,
    **_names("submitterConfig deletionStrategy managedBy preRunningDeadlineSeconds schedule"),
)  # fmt: skip


def _custom(spec: Schema) -> Schema:
    return _fields(
        "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind=_TEXT,
        metadata={"type": "object", "required": ["name"]}, spec=spec, status=_ANY,
    )  # fmt: skip


SCHEMAS: dict[str, Schema] = {"RayCluster": _custom(_CLUSTER), "RayJob": _custom(_JOB)}
