import type { Bench } from './bench.ts'
import { measureRestarts } from './many-blobs.ts'
import { measureDownloads } from './many-downloads.ts'
import { measureManifests } from './many-manifests.ts'

/** Much of everything: what it costs that there are many clients, many blobs, many manifests. */
export const bench: Bench = {
  name: 'scale',
  counts: false,
  async run(context) {
    const results = [
      await measureDownloads(context),
      await measureRestarts(context),
      await measureManifests(context),
    ]
    return {
      figures: results.flatMap(({ figures }) => figures),
      failures: results.flatMap(({ failures = [] }) => failures),
    }
  },
}
