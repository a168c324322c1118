import { defineGroup, later } from './command-line.ts'

/** `outport`: each command's modules are loaded only when it is chosen, which spares every start most of its time. */
export const outport = defineGroup(
  'outport',
  'a container registry that brings its own network of edge mirrors',
  [
    later('up', 'a primary and an edge on this machine, to try it', async () => {
      const { up } = await import('./commands/up.ts')
      return up
    }),
    later('primary', 'the registry that images are pushed to', async () => {
      const { primary } = await import('./commands/primary.ts')
      return primary
    }),
    later('edge', 'a mirror next to the machines that pull', async () => {
      const { edge } = await import('./commands/edge.ts')
      return edge
    }),
    later('edges', 'the edges of a primary: enrol, look, suspend, revoke', async () => {
      const { edges } = await import('./commands/edges.ts')
      return edges
    }),
    later('preheat', 'have edges fetch an image before anybody pulls it', async () => {
      const { preheat } = await import('./commands/preheat.ts')
      return preheat
    }),
    later(
      'keys',
      'the signing keys of a primary: look, rotate, and go on after a restore',
      async () => {
        const { keys } = await import('./commands/keys.ts')
        return keys
      },
    ),
    later('certs', 'certificates for HTTPS, and where clients want them', async () => {
      const { certs } = await import('./commands/certs.ts')
      return certs
    }),
    later('hosts', 'make a client pull through edges', async () => {
      const { hosts } = await import('./commands/hosts.ts')
      return hosts
    }),
  ],
)
