"""web: the pages. It has no data and no secret: what it shows it asks for, and what it changes takes a user's token."""

import hashlib
import hmac
import os
import secrets
import time

import auth
import bank
import profiles
from flask import Flask, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

app = Flask(__name__, static_folder=os.environ.get("ZOOBAR_STATIC", "/zoobar/static"), static_url_path="/static")
app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
# Behind TLS, set it: cookies then go nowhere else.
_SECURE = os.environ.get("ZOOBAR_SECURE_COOKIES") == "1"


@app.template_filter("moment")
def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


@app.before_request
def _who_is_it() -> None:
    if request.endpoint == "static":
        return
    g.token = request.cookies.get("token", "")
    g.user = auth.check_token(g.token) if g.token else None
    g.seed = request.cookies.get("seed", "")
    if request.method == "POST" and not (g.seed and hmac.compare_digest(_csrf().encode(), request.form.get("csrf", "").encode())):
        abort(400, "This form is not from here, or it is too old: go back, load the page again.")
    if not g.seed:
        g.seed = secrets.token_urlsafe(32)


def _csrf() -> str:
    """What a form has to bring along: another site can make the browser send its cookies, but not read or set them."""
    return hmac.new(g.seed.encode(), g.token.encode(), hashlib.sha256).hexdigest()


@app.context_processor
def _for_all_pages() -> dict[str, object]:
    return {"csrf": _csrf, "user": g.get("user")}


@app.after_request
def _headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = "default-src 'self'; frame-ancestors 'none'; form-action 'self'"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
        if g.get("seed") and g.seed != request.cookies.get("seed"):
            _cookie(response, "seed", g.seed)
    return response


def _cookie(response: Response, name: str, value: str) -> None:
    response.set_cookie(name, value, max_age=24 * 3600, httponly=True, samesite="Lax", secure=_SECURE)


def _entered(token: str) -> Response:
    response = redirect(url_for("home"))
    _cookie(response, "token", token)
    # What was seen before logging in is of no use after it.
    g.seed = secrets.token_urlsafe(32)
    return response


@app.errorhandler(400)
def _bad(error: Exception) -> tuple[str, int]:
    return render_template("message.html", message=getattr(error, "description", "")), 400


@app.get("/")
def home() -> str | Response:
    if g.user is None:
        return redirect(url_for("login"))
    return render_template(
        "home.html", zoobars=bank.balance(g.user), profile=profiles.profile(g.user), transfers=bank.transfers(g.user)
    )


@app.route("/register", methods=["GET", "POST"])
def register() -> str | Response | tuple[str, int]:
    return _enter("register", auth.register)


@app.route("/login", methods=["GET", "POST"])
def login() -> str | Response | tuple[str, int]:
    return _enter("login", auth.login)


def _enter(page: str, do) -> str | Response | tuple[str, int]:  # type: ignore[no-untyped-def]
    if request.method == "GET":
        return render_template("enter.html", page=page)
    name = request.form.get("name", "").strip().lower()
    try:
        return _entered(do(name, request.form.get("password", "")))
    except (ValueError, PermissionError) as error:
        return render_template("enter.html", page=page, name=name, message=error.args[0]), 403


@app.post("/logout")
def logout() -> Response:
    auth.logout(g.token)
    response = redirect(url_for("login"))
    response.delete_cookie("token")
    return response


@app.post("/profile")
def change_profile() -> Response | tuple[str, int]:
    return _change(lambda: profiles.change_profile(g.token, request.form.get("profile", "")))


@app.post("/transfer")
def transfer() -> Response | tuple[str, int]:
    def move() -> None:
        recipient = request.form.get("recipient", "").strip().lower()
        bank.transfer(g.token, recipient, int(request.form.get("zoobars", "").strip() or "0"))

    return _change(move)


def _change(do) -> Response | tuple[str, int]:  # type: ignore[no-untyped-def]
    try:
        do()
    except (ValueError, PermissionError) as error:
        return render_template("message.html", message=error.args[0]), 403
    return redirect(url_for("home"))


@app.get("/users")
def users() -> str | Response | tuple[str, int]:
    if g.user is None:
        return redirect(url_for("login"))
    name = request.args.get("user", "").strip().lower()
    zoobars = bank.balance(name) if name else None
    if zoobars is None:
        return render_template("message.html", message=f"There is no user {name}." if name else "Whom?"), 404
    profile = profiles.profile(name)
    if profile.startswith(profiles.PROGRAM):
        profile = profiles.visit(g.token, name)
        # Its program may have given some away.
        zoobars = bank.balance(name)
    return render_template("user.html", name=name, zoobars=zoobars, profile=profile, transfers=bank.transfers(name))
