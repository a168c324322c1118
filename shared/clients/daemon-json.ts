export interface DockerDaemon {
  /** Tried for docker.io only, in this order. */
  readonly registryMirrors?: readonly string[]
  /** `host:port` of registries that may be spoken to in plain http or without a check of their certificate. */
  readonly insecureRegistries?: readonly string[]
}

/** The text of `/etc/docker/daemon.json`. [docker daemon reference] */
export function formatDaemonJson({ registryMirrors, insecureRegistries }: DockerDaemon): string {
  const daemon = {
    ...(registryMirrors === undefined ? {} : { 'registry-mirrors': registryMirrors }),
    ...(insecureRegistries === undefined ? {} : { 'insecure-registries': insecureRegistries }),
  }
  return `${JSON.stringify(daemon)}\n`
}
