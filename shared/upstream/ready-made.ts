import type { RegistryEntry } from './registries.ts'

/** What one has to know of a public registry to mirror it. */
export interface ReadyMade {
  /** The name that its images have. */
  readonly id: string
  /** Other names of the same registry: never one that has images of its own. */
  readonly aliases?: RegistryEntry['names']
  /** Where it is dialled; `https://<id>` without. */
  readonly url?: string
  /** Where its tokens come from, if not from itself. */
  readonly realmHosts?: RegistryEntry['realmHosts']
  readonly libraryPrefix?: true
  readonly redirectsManifests?: true
}

/** Public registries that an edge mirrors without being told of them. */
export const readyMade: readonly ReadyMade[] = [
  {
    id: 'docker.io',
    aliases: ['index.docker.io', 'registry-1.docker.io'],
    url: 'https://registry-1.docker.io',
    realmHosts: ['auth.docker.io'],
    libraryPrefix: true,
  },
  { id: 'ghcr.io' },
  { id: 'quay.io' },
  // The frozen name of the same images, and a front of several registries.
  { id: 'registry.k8s.io', aliases: ['k8s.gcr.io'], redirectsManifests: true },
  { id: 'gcr.io' },
  { id: 'public.ecr.aws' },
  { id: 'mcr.microsoft.com' },
]
