import { certificateHosts, podmanRegistriesFor } from '../../../shared/clients/mirroring.ts'
import { mergeRegistriesConf } from '../../../shared/clients/registries-conf.ts'
import { defineCommand, UsageError } from '../../command-line.ts'
import { caFiles } from './ca-files.ts'
import { writeClientFiles } from './files.ts'
import { readNear } from './near-options.ts'
import { hostsOptions, parseMirroring, parsePath, readCa } from './options.ts'
import { writeNearest } from './watch.ts'

const defaultFile = '/etc/containers/registries.conf.d/outport.conf'
const defaultCerts = '/etc/containers/certs.d'

/** `outport hosts podman` */
export const podman = defineCommand({
  name: 'hosts podman',
  summary: 'write a file of registries.conf.d, for podman, skopeo, buildah and CRI-O',
  options: {
    ...hostsOptions,
    file: { type: 'string', value: 'FILE', help: `where to write (default ${defaultFile})` },
    certs: {
      type: 'string',
      value: 'DIR',
      help: `where the CA is copied to, for each host (default ${defaultCerts})`,
    },
  },
  notes: `The edges must know another registry by the id that is its name, as they do docker.io: podman asks them for /v2/docker.io/library/nginx/…
A later file of the folder that names the same registry wins.`,
  async run(options) {
    const mirroring = parseMirroring('podman', options)
    const numbered = mirroring.registries.find((name) => name.includes(':'))
    if (numbered !== undefined) {
      throw new UsageError(
        `podman asks an edge for another registry by a path, in which the port of ${numbered} cannot stand`,
      )
    }
    const ca = await readCa(mirroring)
    const path = parsePath('file', options.file ?? defaultFile)
    const certs = parsePath('certs', options.certs ?? defaultCerts)
    return writeNearest({
      mirroring,
      settings: await readNear(options, process.env),
      plainHttp: options['plain-http'],
      async write(nearest) {
        const registries = podmanRegistriesFor(nearest)
        const written = await writeClientFiles(
          [
            ...caFiles(ca, certificateHosts(nearest), certs),
            { path, merge: (existing) => mergeRegistriesConf(existing, registries) },
          ],
          { dryRun: options['dry-run'] },
        )
        if (written.length > 0) {
          process.stdout.write(
            'podman, skopeo and buildah read it each time; CRI-O by: systemctl reload crio\n',
          )
        }
        return 0
      },
    })
  },
})
