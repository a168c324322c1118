import { defineGroup } from '../command-line.ts'
import { containerd } from './hosts/containerd.ts'
import { docker } from './hosts/docker.ts'
import { k3s } from './hosts/k3s.ts'
import { podman } from './hosts/podman.ts'

/** `outport hosts` */
export const hosts = defineGroup('hosts', 'make a client pull through edges', [
  containerd,
  docker,
  podman,
  k3s,
])
