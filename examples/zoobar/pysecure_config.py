"""zoobar's services in the API of the original PySecure: the same application as pysecure.toml.

    pysecure -f examples/zoobar/pysecure_config.py up      # or: examples/zoobar/run --original

What the original did not have are keywords, as `listen` and `callers`, and the sandbox by a name.
"""

import sys

from pysecure import (
    PySecure,
    PySecureConfig,
    PySecureResource,
    PySecureSandbox,
    PySecureService,
    PySecureSharedBundle,
)

cred_db_resource = PySecureResource('/zoobar/db/cred/cred.db', 'rw', '', '')
bank_db_resource = PySecureResource('/zoobar/db/bank/bank.db', 'rw', '', '')
profile_db_resource = PySecureResource('/zoobar/db/profile/profile.db', 'rw', '', '')
people_resource = PySecureResource('/zoobar/people/', 'rw', '', '')
static_resource = PySecureResource('/zoobar/static', '', 'r', '', source='./static')

zoobar_bundle = PySecureSharedBundle([static_resource])

steady = {'ready': 'notify', 'restart': 'on-failure'}
authsvc = PySecureService('authsvc', '/zoobar', '/zoobar/auth.py', [cred_db_resource], callers={
    'web': ['register', 'login', 'logout', 'check_token'],
    'banksvc': ['check_token', 'exists'],
    'profilesvc': ['check_token'],
}, **steady)
banksvc = PySecureService('banksvc', '/zoobar', '/zoobar/bank.py', [bank_db_resource], callers={
    'web': ['balance', 'transfer', 'transfers'],
    'profilesvc': ['balance', 'transfers', 'give'],
}, **steady)
profilesvc = PySecureService('profilesvc', '/zoobar', '/zoobar/profiles.py', [profile_db_resource, people_resource], callers={
    'web': ['profile', 'visit', 'change_profile'],
}, **steady)
web = PySecureService(
    'web', '/zoobar', 'gunicorn --config gunicorn.conf.py web:app', bundle=zoobar_bundle,
    listen=['127.0.0.1:8080'], depends_on={'authsvc': 'ready', 'banksvc': 'ready', 'profilesvc': 'ready'}, **steady)

profile = PySecureSandbox('profile', [profilesvc], people_resource, ready=2, limits={
    'wall': '5s', 'cpu': '2s', 'memory': '128M', 'processes': 8, 'output': '16K', 'file_size': '1M', 'files': 100,
})

config = PySecureConfig('zoobar', None, None)  # ids: a free range of this host
config.register_resources([cred_db_resource, bank_db_resource, profile_db_resource, people_resource, static_resource])
config.register_bundles([zoobar_bundle])
config.register_services([authsvc, banksvc, profilesvc, web])
config.register_sandboxes([profile])

if __name__ == '__main__':
    PySecure.run_with_config(config, *sys.argv[1:])
